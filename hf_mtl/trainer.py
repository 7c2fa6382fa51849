"""`MultiTaskTrainer`: the Hugging Face Trainer with every task in every step and the tasks' gradients combined."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from .arguments import MultiTaskTrainingArguments
from .checkpoints import choose_checkpoint, write_errors_named
from .combination import make_combination
from .counts import StepCounts
from .cpu import CpuKernels, RandomBits
from .data import TaskCollator, TaskRows
from .gradients import TaskGradients, sum_over_processes
from .joint import JointLoss
from .modeling import MultiTaskModel
from .optimizers import optimizer_class
from .packing import are_known, can_pack, packed_losses
from .progress import TaskBars, TaskLines
from .publishing import TaskPublishing
from .pushing import PushCheckpoints
from .refusals import refuse_unsupported, shards_gradients
from .sampling import GROUPED_BATCHES, TaskBatchSampler, epoch_batches
from .saving import SaveAfterTheEpochsEnd, SealCheckpoints, StopOnSigterm
from .schedule import UnfreezeSchedule
from .seeding import random_state, replayed
from .shares import Floats, task_shares
from .tasks import TaskSpec, with_loss_weights
from .unfreezing import GradualUnfreezing, encoder_layers, steps_per_epoch

logger = logging.getLogger(__name__)


def _shares(
    tasks: Sequence[TaskSpec], rows: TaskRows, args: MultiTaskTrainingArguments, batch_size: int
) -> Callable[[int], Floats]:
    """Epoch -> each task's share of a batch; InputError for arguments that give none."""
    sizes = {spec.name: rows.sizes[spec.name] for spec in tasks}
    weights = [spec.sampling_weight for spec in tasks]
    shares = functools.partial(
        task_shares, args.task_sampling, sizes, weights, batch_size, options=args.options("task_sampling_args")
    )
    num_batches = epoch_batches(list(sizes.values()), shares(), args.world_size) // args.world_size
    epochs = args.max_steps / steps_per_epoch(args, num_batches) if args.max_steps > 0 else args.num_train_epochs
    return lambda epoch: shares(progress=min(1.0, epoch / max(1, math.ceil(epochs) - 1)))


def _chosen_optimizer(args: MultiTaskTrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Class and options of an optimizer that the Trainer does not know."""
    assert args.optimizer is not None
    options = args.options("optimizer_args")
    return optimizer_class(args.optimizer, options), {"lr": args.learning_rate, **options}


def _compile_layers(model: MultiTaskModel, args: MultiTaskTrainingArguments) -> None:
    """Compile each encoder layer; the Trainer would compile the whole model, with a graph per task and length."""
    logger.info("layers are compiled in the first steps, which takes a minute or so")
    for layer in dict.fromkeys(encoder_layers(model.encoder)):
        layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)
    args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None


class MultiTaskTrainer(TaskPublishing):
    """A Trainer for several tasks at once.

    Args:
        model: has a head for every task.
        args: the arguments; `gradient_method`, `task_sampling`, `unfreeze_schedule` and `optimizer` are among them.
        tasks: the tasks, in the order in which they are listed everywhere.
        train_dataset: task -> rows from `tokenise`; every task has some.
        eval_dataset: task -> rows with labels.
        processing_class: the tokenizer; it pads, and is saved with the model.
        callbacks: further callbacks.
        kwargs: for `Trainer`.

    Raises:
        InputError: for a set-up that cannot train rightly, before any folder is made.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: MultiTaskModel,
        args: MultiTaskTrainingArguments,
        tasks: Sequence[TaskSpec],
        train_dataset: Mapping[str, Dataset] | None = None,
        eval_dataset: Mapping[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        refuse_unsupported(model, args, tasks)
        tasks = with_loss_weights(tasks, args.options("loss_weights"))
        self.tasks = {spec.name: spec for spec in tasks}
        self.loss_weights = {spec.name: spec.loss_weight for spec in tasks}
        self.combine_gradients = make_combination(args.gradient_method, **args.options("gradient_method_args"))
        self.balancer = self.combine_gradients.balancer
        self.unfreeze_schedule = UnfreezeSchedule.parse(args.unfreeze_schedule)
        if self.unfreeze_schedule is not None:
            self.unfreeze_schedule.check(model.encoder.config.num_hidden_layers)
            callbacks = [*callbacks, GradualUnfreezing(self.unfreeze_schedule)]
        if args.optimizer is not None:
            kwargs["optimizer_cls_and_kwargs"] = _chosen_optimizer(args)
        rows = None
        if train_dataset is not None:
            rows = TaskRows({name: train_dataset[name] for name in self.tasks})
            _shares(tasks, rows, args, args.train_batch_size)  # refuses a batch that is too small
        self.compiled = args.torch_compile
        if self.compiled:
            _compile_layers(model, args)
        self.joint = None
        if self.balancer is not None and shards_gradients(model, args):
            self.joint = JointLoss(list(self.tasks), self.loss_weights, self.balancer)
        self.gradients: TaskGradients | None = None
        self.packs = False
        self.bits = RandomBits()
        self.seen: list[tuple[Tensor, dict[str, dict[str, Tensor]]]] = []
        self.counts = StepCounts(list(self.tasks))
        self.push_checkpoints = PushCheckpoints(args.hub_strategy, always=args.hub_always_push)
        self.seal, self.sigterm = SealCheckpoints(self.data_order, self.push_checkpoints.in_use), StopOnSigterm()
        own = [_StepHooks(self), self.seal, self.push_checkpoints, self.sigterm, SaveAfterTheEpochsEnd()]
        stop_on_sigterm, args.enable_jit_checkpoint = args.enable_jit_checkpoint, False  # see StopOnSigterm
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=dict(eval_dataset) if eval_dataset is not None else None,
            processing_class=processing_class,
            data_collator=kwargs.pop("data_collator", None) or TaskCollator(processing_class),
            compute_metrics=self.compute_metrics,
            callbacks=[*callbacks, *own],
            **kwargs,
        )
        args.enable_jit_checkpoint = stop_on_sigterm
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TaskBars())
        self.add_callback(TaskLines(tasks))

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches `{task: {"input_ids": (rows, tokens), ...}}` with each task's exact quota of rows."""
        rows = self.train_dataset
        self.batch_sampler = TaskBatchSampler(
            rows.lengths,
            batch_size=self._train_batch_size,
            shares=_shares(list(self.tasks.values()), rows, self.args, self._train_batch_size),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            num_processes=self.args.world_size,
            grouped=self.args.train_sampling_strategy == "group_by_length",
        )
        return self._loader(rows, batch_sampler=self.batch_sampler)

    def data_order(self) -> dict[str, Any]:
        """What the batches of a run follow from, beside its data."""
        args, sampler = self.args, self.batch_sampler
        return {
            "processes": args.world_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "per_device_train_batch_size": self._train_batch_size,
            "batches_per_epoch": len(sampler),
            "rows_per_epoch": [sampler.quotas(epoch).sum(axis=0).tolist() for epoch in (0, 1)],
            "rows": dict(zip(self.tasks, sampler.sizes, strict=True)),
            "seed": sampler.seed,
            "train_sampling_strategy": str(args.train_sampling_strategy),
            "batches_sorted_together": GROUPED_BATCHES,
        }

    # ---- one training step ----

    def compute_loss_context_manager(self) -> ExitStack:
        """What is around every forward; on a CPU, its faster kernels too."""
        around: ExitStack = super().compute_loss_context_manager()
        if self._takes_kernels():
            sparse = [] if self.gradients is None else self.gradients.shared
            around.enter_context(CpuKernels(sparse, self.bits))
        return around

    def _takes_kernels(self) -> bool:
        # Backward, which the kernels are not around, repeats the forward then.
        repeated = any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())
        return self.args.device.type == "cpu" and self.joint is None and not (self.compiled or repeated)

    def _can_pack(self) -> bool:
        """Whether all tasks share a forward and a backward.

        Not on several processes, where a row's sum travels while the next task's backward runs, not where the losses
        of the same forwards are asked for again, and not where a subclass puts something around every forward.
        """
        looks_back = self.balancer is not None and self.balancer.looks_back
        return (
            self.args.world_size == 1
            and not looks_back
            and self._is_own("compute_loss_context_manager")
            and self.accelerator.mixed_precision == "no"
            and self._takes_kernels()
            and can_pack(self.model)
        )

    def _is_own(self, name: str) -> bool:
        """Whether a method is what this class has, not a subclass's or what somebody put in its place."""
        return getattr(getattr(self, name), "__func__", None) is vars(MultiTaskTrainer)[name]

    def begin_step(self) -> None:
        """Before the first micro-batch of a step: rows, still without content, for the parameters that train now."""
        self.seen.clear()
        if self.joint is not None:
            return self.joint.clear()
        shared = [p for p in self.model.shared_parameters() if p.requires_grad]
        if self.gradients is None or list(map(id, shared)) != list(map(id, self.gradients.shared)):
            self._free_rows()  # before the new ones are laid out
            heads = self.model.head_parameters()
            self.gradients = TaskGradients(list(self.tasks), shared, heads, self.loss_weights)
            self.packs = self._can_pack()
        self.gradients.clear()

    def _free_rows(self) -> None:
        if self.gradients is not None:
            self.gradients.close()
        self.gradients = None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of a step and, for a joint loss, the step's rows of each task over all processes. (K,)

        None once the run is at its last step: resumed there in mid-epoch, the Trainer would train one more.
        """
        if self.state.global_step >= self.state.max_steps:
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.joint is None or not batches:
            return batches, None
        rows = torch.stack([self._num_rows(batch) for batch in batches]).sum(dim=0).to(device)
        sum_over_processes([rows])
        return batches, rows

    def _num_rows(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        return torch.tensor([len(inputs[task]["labels"]) for task in self.tasks])

    def training_step(
        self, model: nn.Module, inputs: dict[str, dict[str, Tensor]], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Every task's gradient into its row; at the step's last micro-batch they are combined.

        A forward and a backward per task, or one over the packed rows of all. The forward goes through `self.model`,
        not `model`: a wrapped model would mix the tasks' gradients. Only an engine that shards needs the wrapped one;
        there, all tasks share a forward and a backward.

        Args:
            model: the model as the engine wrapped it.
            inputs: task -> its rows.
            num_items_in_batch: the step's rows of each task over all processes, for a joint loss. *Shape:* (K,)

        Returns:
            The weighted sum of the tasks' losses that are finite, divided by the micro-batches of the step. *Shape:* ()
        """
        self.model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        self.bits = RandomBits()
        if self.balancer is not None and self.balancer.looks_back:
            self.seen.append((random_state(self.args.device), inputs))
        if self.joint is None:
            losses = self._backward_by_task(inputs)
        else:
            assert num_items_in_batch is not None
            losses = self._backward_jointly(self.joint, model, inputs, num_items_in_batch)
        total = torch.stack([self.tasks[task].loss_weight * loss for task, loss in losses.items()])
        return total.nan_to_num(0.0, 0.0, 0.0).sum() / self.current_gradient_accumulation_steps

    def _backward_by_task(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        assert self.gradients is not None
        losses = self._backward_packed(self.gradients, inputs) if self.packs and are_known(inputs) else {}
        for task in self.tasks:
            if task in inputs and task not in losses:
                losses[task] = self._backward(self.gradients, task, inputs[task])
            if self.accelerator.sync_gradients:
                self.gradients.begin_sum(task)
        if self.accelerator.sync_gradients:
            self._combine(self.gradients)
        return losses

    def _backward(self, gradients: TaskGradients, task: str, batch: Mapping[str, Tensor]) -> Tensor:
        num_rows = len(batch["labels"])
        with self.compute_loss_context_manager():
            loss = self.model(task=task, **batch).loss
        with gradients.collecting(task, loss, num_rows):
            self.accelerator.backward(loss * num_rows)
        return loss.detach()

    def _backward_packed(
        self, gradients: TaskGradients, inputs: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        with super().compute_loss_context_manager():  # the packed pass has kernels of its own
            losses = packed_losses(self.model, inputs, gradients)
        sums = []
        for task, loss in losses.items():
            num_rows = len(inputs[task]["labels"])
            gradients.count(task, loss, num_rows)
            sums.append(loss * num_rows)
        self.accelerator.backward(torch.stack(sums).sum())
        return {task: loss.detach() for task, loss in losses.items()}

    def _backward_jointly(
        self, joint: JointLoss, model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]], step_rows: Tensor
    ) -> dict[str, Tensor]:
        with self.compute_loss_context_manager():
            losses = model(batches=inputs).loss
        total = joint.collect(losses, self._num_rows(inputs), step_rows)
        if total is not None:
            # DeepSpeed would divide by the micro-batches, which the row counts have done.
            deepspeed = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
            self.accelerator.backward(total, **deepspeed)
        if self.accelerator.sync_gradients:
            self.counts.add(self.state.global_step, joint.bad_tasks(), joint.mean_losses())
        return {task: loss.detach() for task, loss in losses.items()}

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # Only a subclass's step can have changed `.grad` since it was written.
        if self.gradients is not None and self.args.device.type == "cpu" and self._is_own("training_step"):
            norm = self.gradients.clip(self.args.max_grad_norm)
            if norm is not None:
                return norm
        return super()._clip_grad_norm(model)

    def end_step(self) -> None:
        """After the optimizer's step: a method that looks at losses learns from this step's."""
        source = self.joint or self.gradients
        if self.balancer is None or source is None or not source.kept:
            return
        after = self._losses_again().cpu().numpy() if self.balancer.looks_back else None
        self.balancer.learn(source.mean_losses().cpu().numpy(), after, source.kept)

    def _losses_again(self) -> Tensor:
        """Mean losses of the step's rows under the new weights, with the same dropout masks. *Shape:* (K,)"""
        sums, rows = torch.zeros(2, len(self.tasks), dtype=torch.float64, device=self.args.device)
        for state, inputs in self.seen:
            self.bits = RandomBits()
            with torch.no_grad(), replayed(state, self.args.device), self.compute_loss_context_manager():
                losses = self.model_wrapped(batches=inputs).loss
            num_rows = self._num_rows(inputs).to(sums)
            sums += torch.stack([losses[task].double() for task in self.tasks]) * num_rows
            rows += num_rows
        sum_over_processes([sums, rows])
        return sums / rows

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in `Trainer`.

        Raises:
            InputError: when the checkpoint is not what was saved, lacks what the gradient method remembers, or has
                another method's; or when another run trains into the output folder.
            CheckpointError: when a checkpoint cannot be written.
            FloatingPointError: when a task's loss or gradient was not finite in `max_bad_steps` steps in a row; the
                last checkpoint holds the state.
        """
        self.counts.clear()
        self.seal.resumed_from = None
        if resume_from_checkpoint:
            wanted = "latest" if resume_from_checkpoint is True else str(resume_from_checkpoint)
            resume_from_checkpoint = choose_checkpoint(wanted, self.args.output_dir)
            self.seal.resumed_from = Path(resume_from_checkpoint)
            self.combine_gradients.restore(self.seal.resumed_from)
        try:
            with ExitStack() as around:
                around.enter_context(write_errors_named(self.args.output_dir))
                around.enter_context(self.seal.in_charge(self.args))
                around.enter_context(self.push_checkpoints.in_charge(self.args))
                if self.args.enable_jit_checkpoint:
                    around.enter_context(self.sigterm.listening())
                output = super().train(resume_from_checkpoint or None, *args, **kwargs)
        finally:
            self._free_rows()
        for task, steps in self.counts.bad_steps.items():
            if steps >= self.args.max_bad_steps:
                raise FloatingPointError(
                    f"task {task!r}: loss or gradient not finite in {steps} steps in a row; stopped at step "
                    f"{self.state.global_step} with a checkpoint in {self.args.output_dir}. Lower --learning_rate, or "
                    "look at the task's rows; --max_bad_steps sets the patience"
                )
        return output

    def _combine(self, gradients: TaskGradients) -> None:
        """Reduce and combine the step's gradients; tasks that are not finite are counted and left out."""
        scaler = self.accelerator.scaler
        gradients.loss_scale = 1.0 if scaler is None else scaler.get_scale()
        gradients.reduce()
        bad = gradients.leave_out_bad_tasks(keep_overflow=scaler is not None)
        self.combine_gradients(gradients, self.args.seed, self.state.global_step)
        self.counts.add(self.state.global_step, bad, gradients.mean_losses(), gradients.conflict())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what `StepCounts` has of the steps since the last line, over all processes."""
        if "loss" in logs:
            logs.update(self.counts.line())
        super().log(logs, start_time)

    def conflict_share(self) -> float | None:
        """Share of the run's steps in which two tasks' gradients had a negative inner product; None without a step."""
        return self.counts.conflict_share(self.state.log_history)


class _StepHooks(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Tells the trainer where epochs and steps begin."""

    def __init__(self, trainer: MultiTaskTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Resumed in mid-epoch on several processes, the Trainer sets the epoch of a wrapper instead of the sampler.
        self.trainer.batch_sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.trainer.combine_gradients.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()
        if max(self.trainer.counts.bad_steps.values()) >= args.max_bad_steps:
            control.should_save = control.should_training_stop = True
