"""`MultiTaskTrainer`: the Hugging Face Trainer with every task in every step and the tasks' gradients combined."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import (
    EvalLoopOutput,
    EvalPrediction,
    HubStrategy,
    TrainOutput,
    get_last_checkpoint,
    speed_metrics,
)

from .arguments import MultiTaskTrainingArguments, describe_setup
from .card import CardFacts
from .pushing import CheckpointPusher
from .data import TaskCollator, TaskRows
from .errors import InputError
from .gradients import TaskGradients, make_combination
from .kinds import KINDS
from .metrics import average_score, task_scores
from .modeling import MultiTaskModel
from .optimizers import optimizer_class
from .progress import TaskBars, TaskLines
from .publish import TransportError, check_write_access, publish
from .refusals import refuse_unsupported
from .sampling import TaskBatchSampler, task_shares
from .schedule import UnfreezeSchedule
from .seeding import seeded_generator
from .tasks import TaskSpec
from .unfreezing import GradualUnfreezing, encoder_layers

logger = logging.getLogger(__name__)
MEMORY_FILE = "gradient_method.json"


def _shares(
    tasks: Sequence[TaskSpec], rows: TaskRows, args: MultiTaskTrainingArguments, batch_size: int
) -> NDArray[np.float64]:
    weights = [spec.sampling_weight for spec in tasks]
    return task_shares(args.task_sampling, [rows.sizes[spec.name] for spec in tasks], weights, batch_size)


class MultiTaskTrainer(Trainer):  # type: ignore[misc]  # transformers' base class is untyped
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
        # Pushed when a checkpoint is complete; the Trainer's own push comes too early, and takes training_args.bin.
        self.push_checkpoint = CheckpointPusher(args.hub_strategy, always=args.hub_always_push)
        args.hub_strategy = HubStrategy.END
        self.gradients: TaskGradients | None = None
        self.loss_sums: Tensor | float = 0.0
        self.loss_steps = 0
        self.bad_steps = dict.fromkeys(self.tasks, 0)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=dict(eval_dataset) if eval_dataset is not None else None,
            processing_class=processing_class,
            data_collator=kwargs.pop("data_collator", None) or TaskCollator(processing_class),
            compute_metrics=self.compute_metrics,
            callbacks=[*callbacks, _StepHooks(self)],
            **kwargs,
        )
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

    def get_eval_dataloader(self, eval_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        return self._loader(eval_dataset, batch_size=self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, rows: TaskRows, **batches: Any) -> DataLoader[Any]:
        args = self.args
        loader = DataLoader(
            rows,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            **batches,
        )
        return self.accelerator.prepare(loader)

    # ---- one training step ----

    def begin_step(self) -> None:
        """Before the first micro-batch of a step: rows for the parameters that train now, all zero."""
        shared = [p for p in self.model.shared_parameters() if p.requires_grad]
        if self.gradients is None or list(map(id, shared)) != list(map(id, self.gradients.shared)):
            self.gradients = None  # frees the old rows before the new ones are laid out
            weights = {name: spec.loss_weight for name, spec in self.tasks.items()}
            self.gradients = TaskGradients(list(self.tasks), shared, self.model.head_parameters(), weights)
        self.gradients.clear()

    def training_step(
        self, model: nn.Module, inputs: dict[str, dict[str, Tensor]], num_items_in_batch: Any = None
    ) -> Tensor:
        """One forward and backward per task; at the step's last micro-batch the gradients are combined.

        The forward goes through `self.model`, not `model`: a wrapped model would mix the tasks' gradients.

        Returns:
            The weighted sum of the tasks' losses, divided by the micro-batches of the step. *Shape:* ()
        """
        assert self.gradients is not None
        self.model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        total = torch.zeros((), device=self.args.device)
        for task, batch in self._prepare_inputs(inputs).items():
            num_rows = len(batch["labels"])
            with self.compute_loss_context_manager():
                loss = self.model(task=task, **batch).loss
            self.gradients.collect(task, loss, num_rows)
            self.accelerator.backward(loss * num_rows)
            total += loss.detach() * self.tasks[task].loss_weight
        if self.accelerator.sync_gradients:
            self._combine(self.gradients)
        return total / self.current_gradient_accumulation_steps

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in `Trainer`.

        Raises:
            InputError: when the checkpoint lacks what the gradient method remembers, or has another method's.
            FloatingPointError: when a task's loss or gradient was not finite in `max_bad_steps` steps in a row; the
                last checkpoint holds the state.
        """
        self.bad_steps = dict.fromkeys(self.tasks, 0)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
        if isinstance(resume_from_checkpoint, str):
            self._restore_memory(Path(resume_from_checkpoint))
        output = super().train(resume_from_checkpoint, *args, **kwargs)
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
        self.bad_steps = {task: self.bad_steps[task] + 1 if task in bad else 0 for task in self.tasks}
        for task in bad:
            logger.warning("step %d: loss or gradient of %s is not finite; left out", self.state.global_step, task)
        self.combine_gradients(gradients, self.args.seed, self.state.global_step)
        self.loss_sums = self.loss_sums + gradients.mean_losses()
        self.loss_steps += 1

    # ---- evaluation ----

    def evaluate(
        self,
        eval_dataset: Mapping[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Every task's metrics as "<prefix>_<task>_<metric>", and their mean "<prefix>_average" over the main ones.

        Without `eval_dataset`, the fixed sample of training rows is scored too, under the prefix "train".
        `on_evaluate` fires once, with everything, so that early stopping and the best model can use any of it.
        """
        self._memory_tracker.start()
        start = time.time()
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = self._scores(rows, ignore_keys, metric_key_prefix)
        losses = {task: metrics[f"{metric_key_prefix}_{task}_loss"] for task in rows}
        metrics[f"{metric_key_prefix}_loss"] = sum(self.tasks[task].loss_weight * losses[task] for task in rows)
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=sum(map(len, rows.values()))))
        if eval_dataset is None and self.train_dataset is not None and self.args.train_metric_rows > 0:
            metrics.update(self._scores(self._train_sample(), ignore_keys, "train"))
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _scores(self, rows: Mapping[str, Dataset], ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for task in rows:
            longest_first = np.argsort(rows[task]["length"], kind="stable")[::-1]  # little padding; scores ignore order
            loader = self.get_eval_dataloader(TaskRows({task: rows[task].select(longest_first)}))
            output = self.evaluation_loop(loader, "Evaluation", None, ignore_keys, metric_key_prefix=f"{prefix}_{task}")
            metrics.update(output.metrics)
        metrics[f"{prefix}_average"] = average_score([self.tasks[task] for task in rows], metrics, prefix)
        return metrics

    def _train_sample(self) -> dict[str, Dataset]:
        """The same rows of every task whenever it is called, on every rank."""
        sample = {}
        for number, (task, rows) in enumerate(self.train_dataset.tasks.items()):
            order = torch.randperm(len(rows), generator=seeded_generator(self.args.seed, number, len(rows)))
            sample[task] = rows.select(order[: self.args.train_metric_rows].tolist())
        return sample

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The stock loop over the rows of one task; `compute_metrics` learns which."""
        (self._evaluated_task,) = dataloader.dataset.tasks
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, dict[str, Tensor]],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and labels of a batch of one task."""
        ((task, batch),) = inputs.items()
        return super().prediction_step(model, {"task": task, **batch}, prediction_loss_only, ignore_keys)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of the task that is being evaluated, and its exact mean loss, from logits and labels."""
        spec = self.tasks[self._evaluated_task]
        logits, labels = torch.from_numpy(prediction.predictions), torch.from_numpy(prediction.label_ids)
        decoded = KINDS[spec.kind].decode(logits, spec.head)
        loss = KINDS[spec.kind].loss(logits, labels, spec.head)
        return {**task_scores(spec, decoded.numpy(), labels.numpy()), "loss": loss.item()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each task's mean loss since the last line, as "loss_<task>", over all processes."""
        if "loss" in logs and self.loss_steps:
            means = torch.as_tensor(self.loss_sums / self.loss_steps).tolist()
            logs.update({f"loss_{task}": mean for task, mean in zip(self.tasks, means, strict=True)})
            self.loss_sums, self.loss_steps = 0.0, 0
        super().log(logs, start_time)

    # ---- what is kept ----

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Make the repository on the Hub when the trainer is built, so that a wrong token stops a run at once."""
        try:
            super().init_hf_repo(*args, **kwargs)
            check_write_access(kwargs.get("token") or self.args.hub_token)
        except (OSError, ValueError, TransportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"hub_model_id {self.args.hub_model_id!r} cannot be pushed to: {reason}") from error

    def save_final(self) -> None:
        """Put the model and the tokenizer into the output folder, where `from_pretrained` finds them."""
        if self.is_world_process_zero():
            self.model.save_pretrained(self.args.output_dir)
            self.processing_class.save_pretrained(self.args.output_dir)

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
        return publish(
            Path(self.args.output_dir),
            self.card_facts(),
            message=commit_message or "End of training",
            token=token,
            revision=revision or self.args.hub_revision,
        )

    def card_facts(self) -> CardFacts:
        """What the model card tells of this run."""
        scored = [row for row in self.state.log_history if "eval_average" in row]
        splits = {"train": self.train_dataset.tasks if self.train_dataset else None, "validation": self.eval_dataset}
        return CardFacts(
            repo_id=self.hub_model_id,
            tasks=list(self.tasks.values()),
            metrics=scored[-1] if scored else {},
            sizes={split: {name: len(rows[name]) for name in rows} for split, rows in splits.items() if rows},
            setup=describe_setup(self.args, self.model.config, self.state.global_step),
            base_model=self.model.config.base_model,
            licence=self.args.hub_license,
        )


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
        trainer, checkpoint = self.trainer, Path(args.output_dir) / f"checkpoint-{state.global_step}"
        trainer.save_memory(checkpoint)
        if args.push_to_hub and trainer.is_world_process_zero():
            trainer.push_checkpoint(checkpoint, trainer.hub_model_id, token=args.hub_token, revision=args.hub_revision)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if max(self.trainer.bad_steps.values()) >= args.max_bad_steps:
            control.should_save = control.should_training_stop = True
