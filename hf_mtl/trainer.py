"""`MultiTaskTrainer`: the Hugging Face Trainer with every task in every step and the tasks' gradients combined."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import HubStrategy, TrainOutput

from .arguments import MultiTaskTrainingArguments, describe_setup
from .card import CardFacts
from .checkpoints import choose_checkpoint, write_errors_named
from .data import TaskCollator, TaskRows
from .errors import InputError
from .evaluation import TaskEvaluation
from .gradients import TaskGradients, make_combination, sum_over_processes
from .joint import JointLoss
from .modeling import MultiTaskModel
from .optimizers import optimizer_class
from .progress import TaskBars, TaskLines
from .publish import CURVES, TransportError, check_write_access, publish
from .pushing import CheckpointPusher
from .refusals import refuse_unsupported, shards_gradients
from .sampling import TaskBatchSampler, epoch_batches
from .saving import SaveAfterTheEpochsEnd, SealCheckpoints, StopOnSigterm
from .schedule import UnfreezeSchedule
from .seeding import random_state, replayed
from .shares import Floats, task_shares
from .tasks import TaskSpec, with_loss_weights
from .unfreezing import GradualUnfreezing, describe_layers, encoder_layers, steps_per_epoch

logger = logging.getLogger(__name__)
MEMORY_FILE = "gradient_method.json"


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


class MultiTaskTrainer(TaskEvaluation):
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
        self.combine_gradients = make_combination(args.gradient_method, **args.options("gradient_method_args"))
        self.unfreeze_schedule = UnfreezeSchedule.parse(args.unfreeze_schedule)
        if self.unfreeze_schedule is not None:
            self.unfreeze_schedule.check(model.encoder.config.num_hidden_layers)
            callbacks = [*callbacks, GradualUnfreezing(self.unfreeze_schedule)]
        if args.optimizer is not None:
            options = args.options("optimizer_args")
            kwargs["optimizer_cls_and_kwargs"] = (
                optimizer_class(args.optimizer, options),
                {"lr": args.learning_rate, **options},
            )
        rows = None
        if train_dataset is not None:
            rows = TaskRows({name: train_dataset[name] for name in self.tasks})
            _shares(tasks, rows, args, args.train_batch_size)  # refuses a batch that is too small
        if args.torch_compile:
            for layer in dict.fromkeys(encoder_layers(model.encoder)):
                layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)
            # The Trainer would compile the whole model too, with a graph per task and length.
            args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None
        self.balancer = self.combine_gradients.balancer
        loss_weights = {name: spec.loss_weight for name, spec in self.tasks.items()}
        sharded = shards_gradients(model, args)
        self.joint = JointLoss(list(self.tasks), loss_weights, self.balancer) if sharded and self.balancer else None
        # Pushed when a checkpoint is complete; the Trainer's own push comes too early, and takes training_args.bin.
        self.push_checkpoint = CheckpointPusher(args.hub_strategy, always=args.hub_always_push)
        args.hub_strategy = HubStrategy.END
        self.gradients: TaskGradients | None = None
        self.seen: list[tuple[Tensor, dict[str, dict[str, Tensor]]]] = []
        self.loss_sums: Tensor | float = 0.0
        self.conflicts: Tensor | float = 0.0
        self.loss_steps = 0
        self.bad_steps = dict.fromkeys(self.tasks, 0)
        self.seal, self.sigterm = SealCheckpoints(self.data_order), StopOnSigterm()
        stop_on_sigterm, args.enable_jit_checkpoint = args.enable_jit_checkpoint, False  # see StopOnSigterm
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=dict(eval_dataset) if eval_dataset is not None else None,
            processing_class=processing_class,
            data_collator=kwargs.pop("data_collator", None) or TaskCollator(processing_class),
            compute_metrics=self.compute_metrics,
            callbacks=[*callbacks, _StepHooks(self), self.seal, _PushHook(self), self.sigterm, SaveAfterTheEpochsEnd()],
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
        }

    # ---- one training step ----

    def begin_step(self) -> None:
        """Before the first micro-batch of a step: rows, still without content, for the parameters that train now."""
        self.seen.clear()
        if self.joint is not None:
            return self.joint.clear()
        shared = [p for p in self.model.shared_parameters() if p.requires_grad]
        if self.gradients is None or list(map(id, shared)) != list(map(id, self.gradients.shared)):
            self._free_rows()  # before the new ones are laid out
            weights = {name: spec.loss_weight for name, spec in self.tasks.items()}
            self.gradients = TaskGradients(list(self.tasks), shared, self.model.head_parameters(), weights)
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
        """One forward and backward per task; at the step's last micro-batch the gradients are combined.

        The forward goes through `self.model`, not `model`: a wrapped model would mix the tasks' gradients. Only an
        engine that shards needs the wrapped one; there, all tasks share a forward and a backward.

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
        losses = {}
        for task in self.tasks:
            if task in inputs:
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
            self._count(joint.bad_tasks(), joint.mean_losses())
        return {task: loss.detach() for task, loss in losses.items()}

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
        self.bad_steps = dict.fromkeys(self.tasks, 0)
        self.seal.resumed_from = None
        if resume_from_checkpoint:
            wanted = "latest" if resume_from_checkpoint is True else str(resume_from_checkpoint)
            resume_from_checkpoint = choose_checkpoint(wanted, self.args.output_dir)
            self.seal.resumed_from = Path(resume_from_checkpoint)
            self._restore_memory(self.seal.resumed_from)
        listening = self.sigterm.listening() if self.args.enable_jit_checkpoint else nullcontext()
        try:
            with write_errors_named(self.args.output_dir), self.seal.in_charge(self.args), listening:
                output = super().train(resume_from_checkpoint or None, *args, **kwargs)
        finally:
            self._free_rows()
        for task, steps in self.bad_steps.items():
            if steps >= self.args.max_bad_steps:
                raise FloatingPointError(
                    f"task {task!r}: loss or gradient not finite in {steps} steps in a row; stopped at step "
                    f"{self.state.global_step} with a checkpoint in {self.args.output_dir}. Lower --learning_rate, or "
                    "look at the task's rows; --max_bad_steps sets the patience"
                )
        return output

    def save_memory(self, folder: Path) -> None:
        """Put what the gradient method remembers, if it does, into a checkpoint."""
        memory = self.combine_gradients.state_dict()
        if memory and self.is_world_process_zero():
            text = json.dumps({"method": self.args.gradient_method, "memory": memory})
            (folder / MEMORY_FILE).write_text(text, encoding="utf-8")

    def _restore_memory(self, checkpoint: Path) -> None:
        file, method = checkpoint / MEMORY_FILE, self.args.gradient_method
        saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"method": None, "memory": {}}
        if self.combine_gradients.state_dict() and saved["method"] != method:
            raise InputError(
                f"resume_from_checkpoint {str(checkpoint)!r} holds no state of gradient_method {method!r}; resume with "
                "the method it was saved with, or start anew"
            )
        self.combine_gradients.load_state_dict(saved["memory"])

    def _combine(self, gradients: TaskGradients) -> None:
        """Reduce and combine the step's gradients; tasks that are not finite are counted and left out."""
        scaler = self.accelerator.scaler
        gradients.loss_scale = 1.0 if scaler is None else scaler.get_scale()
        gradients.reduce()
        bad = gradients.leave_out_bad_tasks(keep_overflow=scaler is not None)
        self.conflicts = self.conflicts + gradients.conflict()
        self.combine_gradients(gradients, self.args.seed, self.state.global_step)
        self._count(bad, gradients.mean_losses())

    def _count(self, bad: Sequence[str], mean_losses: Tensor) -> None:
        """Keep the step's losses for the log, and count the tasks that were left out of it."""
        self.bad_steps = {task: self.bad_steps[task] + 1 if task in bad else 0 for task in self.tasks}
        for task in bad:
            logger.warning("step %d: loss or gradient of %s is not finite; left out", self.state.global_step, task)
        self.loss_sums = self.loss_sums + mean_losses
        self.loss_steps += 1

    # ---- what is logged and kept ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what happened since the last line, over all processes.

        "loss_<task>" is each task's mean loss, "conflicts" the share of steps in which two tasks' gradients had a
        negative inner product; a loss for all tasks at once knows no conflicts.
        """
        if "loss" in logs and self.loss_steps:
            means = torch.as_tensor(self.loss_sums / self.loss_steps).tolist()
            logs.update({f"loss_{task}": mean for task, mean in zip(self.tasks, means, strict=True)})
            if self.joint is None:
                logs["conflicts"] = float(self.conflicts / self.loss_steps)
            self.loss_sums, self.conflicts, self.loss_steps = 0.0, 0.0, 0
        super().log(logs, start_time)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Make the repository on the Hub when the trainer is built, so that a wrong token stops a run at once."""
        try:
            super().init_hf_repo(*args, **kwargs)
            check_write_access(kwargs.get("token") or self.args.hub_token)
        except (OSError, ValueError, TransportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"hub_model_id {self.args.hub_model_id!r} cannot be pushed to: {reason}") from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Put the model and the tokenizer into a folder, the output folder unless given.

        The Trainer's own also pickles the arguments, and with them the hub's token and folders of this machine.
        """
        folder, main = output_dir or self.args.output_dir, self.args.should_save
        if self.joint is not None:  # the shards are gathered, which takes every process
            engine = self.is_deepspeed_enabled or self.is_fsdp_enabled
            weights = self.accelerator.get_state_dict(self.model_wrapped) if engine else None
            self.model.save_pretrained(folder, state_dict=weights, is_main_process=main)
        elif main:
            self.model.save_pretrained(folder)
        if main:
            self.processing_class.save_pretrained(folder)

    def save_final(self) -> None:
        """Put the model and the tokenizer into the output folder, where `from_pretrained` finds them."""
        with write_errors_named(self.args.output_dir):
            self.save_model()

    def draw_curves(self) -> None:
        """Put training_curves.png into the output folder, with a line where layers were unfrozen."""
        from .report import plot_curves  # late: matplotlib is slow to import, and not needed to train

        marks: dict[float, str] = {}
        if schedule := self.unfreeze_schedule:
            num_batches = len(self.batch_sampler) // self.args.world_size
            unit = 1 if schedule.unit == "steps" else steps_per_epoch(self.args, num_batches)
            num_layers = self.model.encoder.config.num_hidden_layers
            marks = {start * unit: describe_layers(layers, num_layers) for start, layers in schedule.stages}
            marks = {step: words for step, words in marks.items() if step <= self.state.global_step}
        plot_curves(self.state.log_history, list(self.tasks.values()), marks, Path(self.args.output_dir) / CURVES)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Upload model, tokenizer, card and curves to `args.hub_model_id`; files that may hold secrets stay here.

        Returns:
            The commit's address on the main process, None elsewhere.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        self.save_final()
        if not self.is_world_process_zero():
            return None
        self.push_checkpoint.wait()
        if not (Path(self.args.output_dir) / CURVES).exists() and any("loss" in row for row in self.state.log_history):
            self.draw_curves()
        return publish(
            Path(self.args.output_dir),
            self.card_facts(),
            message=commit_message or "End of training",
            token=token,
            revision=revision or self.args.hub_revision,
        )

    def card_facts(self) -> CardFacts:
        """What the model card tells of this run."""
        conflicts = [row["conflicts"] for row in self.state.log_history if "conflicts" in row]
        splits = {"train": self.train_dataset.tasks if self.train_dataset else None, "validation": self.eval_dataset}
        return CardFacts(
            repo_id=self.hub_model_id,
            tasks=list(self.tasks.values()),
            metrics=self._current_scores(),
            sizes={split: {name: len(rows[name]) for name in rows} for split, rows in splits.items() if rows},
            conflicts=sum(conflicts) / len(conflicts) if conflicts else None,
            setup=describe_setup(self.args, self.model.config, steps) if (steps := self.state.global_step) else {},
            base_model=self.model.config.base_model,
            licence=self.args.hub_license,
        )

    def _current_scores(self) -> Mapping[str, float]:
        """The last evaluation of the weights that the model has now; empty when there was none."""
        history, step = self.state.log_history, self.state.global_step
        trained = max((place for place, row in enumerate(history) if "train_runtime" in row), default=-1)
        again = any("eval_average" in row for row in history[trained + 1 :])
        if trained >= 0 and self.args.load_best_model_at_end and not again:
            step = self.state.best_global_step
        scored = [row for row in history if "eval_average" in row and row["step"] == step]
        return scored[-1] if scored else {}


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
        self.trainer.save_memory(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()
        if max(self.trainer.bad_steps.values()) >= args.max_bad_steps:
            control.should_save = control.should_training_stop = True


class _PushHook(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Pushes a checkpoint; it comes after the callback that seals it."""

    def __init__(self, trainer: MultiTaskTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.push_to_hub and state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            repo_id = self.trainer.hub_model_id
            self.trainer.push_checkpoint(checkpoint, repo_id, token=args.hub_token, revision=args.hub_revision)
