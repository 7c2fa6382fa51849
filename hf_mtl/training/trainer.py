"""`MultiTaskTrainer`: the Hugging Face Trainer with every task in every step and the tasks' gradients combined."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy, TrainOutput

from ..data.batch_sampler import GROUPED_BATCHES, TaskBatchSampler, epoch_batches
from ..data.task_shares import Floats, task_shares
from ..data.tokenization import TaskCollator, TaskRows
from ..errors import InputError
from ..gradients.method_state import save_method
from ..model.input_length import check_tokenizer
from ..model.modeling import MultiTaskModel
from ..tasks.spec import TaskSpec, check_metric_names, with_loss_weights
from .arguments import MultiTaskTrainingArguments
from .checkpoint_callbacks import DelaySaveToEpochEnd, SealCheckpoints, StopOnSigterm
from .checkpoints import choose_checkpoint, write_errors_named
from .early_stopping import EarlyStopping, KeepPatience
from .hub_sync import PushCheckpoints
from .progress import TaskBars, TaskLines
from .resumable import ResumableTrainer, chosen_optimizer
from .resuming import encoder_fingerprint, write_settings
from .schedule import UnfreezeSchedule
from .trainer_checks import (
    NO_SEARCH,
    check_arguments,
    check_batching,
    check_callbacks,
    check_model,
    check_optimizers,
    check_options,
    check_tasks,
)
from .unfreezing import GradualUnfreezing, steps_per_epoch
from .unsupported import check_supported, shards_gradients
from .watched_metric import (
    check_own_schedule,
    check_watched_metric,
    go_without_evaluations,
    refuse_watchers_without_evaluations,
    refuse_watchers_without_metric,
    schedule_options,
)

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


def _compile_layers(model: MultiTaskModel, args: MultiTaskTrainingArguments) -> None:
    """Compile each encoder layer; the Trainer would compile the whole model, with a graph per task and length."""
    logger.info("layers are compiled in the first steps, which takes a minute or so")
    for layer in dict.fromkeys(model.encoder_layers()):
        layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)
    args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None


@contextmanager
def _changed(args: MultiTaskTrainingArguments, **values: Any) -> Iterator[None]:
    """Arguments with other values for a while."""
    before = {name: getattr(args, name) for name in values}
    try:
        for name, value in values.items():
            setattr(args, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


class MultiTaskTrainer(ResumableTrainer):
    """A Trainer for several tasks at once.

    Args:
        model: has a head for every task; `model_init` in its place is refused.
        args: the arguments; `gradient_method`, `task_sampling`, `unfreeze_schedule` and `optimizer` are among them.
        tasks: the tasks, in the order in which they are listed everywhere.
        train_dataset: task -> rows from `tokenize`; every task has some. With one task, its rows will do.
        eval_dataset: the same; tasks that it lacks are not scored, nor those that it has beside all of `tasks`.
        processing_class: the tokenizer; it pads, and is saved with the model.
        callbacks: further callbacks.
        kwargs: for `Trainer`.

    A subclass may override `compute_loss(model, inputs, return_outputs=False, num_items_in_batch=None)`. In training
    and evaluation it is called for every task alone, with `inputs` `{"task": name, "input_ids": ..., "labels": ...}`,
    and gives the mean of the loss over these rows.

    Raises:
        InputError: for a set-up that cannot train rightly, before any folder is made.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: MultiTaskModel | None = None,
        args: MultiTaskTrainingArguments | None = None,
        tasks: Sequence[TaskSpec] = (),
        train_dataset: Mapping[str, Dataset] | Dataset | None = None,
        eval_dataset: Mapping[str, Dataset] | Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs, callbacks = check_options(kwargs), check_callbacks(callbacks)
        model, args, tasks = check_model(model), check_arguments(args), check_tasks(tasks)
        check_batching(processing_class, kwargs.get("data_collator"))
        check_optimizers(args, kwargs)
        check_supported(model, args, tasks)
        model.check_names()  # else the first save would be refused
        if processing_class is not None:
            check_tokenizer(processing_class, model.config.encoder_config)
        check_metric_names(tasks)
        tasks = with_loss_weights(tasks, args.options("loss_weights"))
        self.tasks = {spec.name: spec for spec in tasks}
        self._set_up_steps(model, args)
        self.encoder_at_start = None if shards_gradients(model, args) else encoder_fingerprint(model)
        self.changes = []
        self.unfreeze_schedule = UnfreezeSchedule.parse(args.unfreeze_schedule)
        if self.unfreeze_schedule is not None and train_dataset is not None:
            self.unfreeze_schedule.check(model.encoder.config.num_hidden_layers)
            callbacks = [*callbacks, GradualUnfreezing(self.unfreeze_schedule)]
        if args.optimizer is not None:
            kwargs["optimizer_cls_and_kwargs"] = chosen_optimizer(args)
        self.model, self.data_collator = model, kwargs.pop("data_collator", None) or TaskCollator(processing_class)
        rows = None
        if train_dataset is not None:
            rows = TaskRows(self._rows_for_training(train_dataset))
            _shares(tasks, rows, args, args.train_batch_size)  # refuses a batch that is too small
        if eval_dataset is not None:
            eval_dataset = self.given_rows(eval_dataset, "eval_dataset", others=True)
        if rows is not None:
            self._check_evaluations(args, list(eval_dataset or ()), callbacks)
        if args.torch_compile:
            _compile_layers(model, args)
        stop_on_sigterm, args.enable_jit_checkpoint = args.enable_jit_checkpoint, False  # see StopOnSigterm
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=self.data_collator,
            compute_metrics=self.compute_metrics,
            callbacks=[*callbacks, *self._own_callbacks(args)],
            **kwargs,
        )
        args.enable_jit_checkpoint = stop_on_sigterm
        check_own_schedule(self.lr_scheduler, args)
        if rows is not None:
            self.name_optimizer()
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TaskBars())
        self.add_callback(TaskLines(tasks))

    def _own_callbacks(self, args: MultiTaskTrainingArguments) -> list[TrainerCallback]:
        """Those of every run, in the order in which they act."""
        self.push_checkpoints = PushCheckpoints(args.hub_strategy, always=args.hub_always_push)
        self.seal, self.sigterm = SealCheckpoints(self.data_order, self.push_checkpoints.in_use), StopOnSigterm()
        patience = args.early_stopping_patience
        stopping = [] if patience is None else [EarlyStopping(early_stopping_patience=patience)]
        keep_patience = KeepPatience(lambda: self.callback_handler.callbacks)
        hooks = [_StepHooks(self), *stopping, keep_patience]
        return [*hooks, self.seal, self.push_checkpoints, self.sigterm, DelaySaveToEpochEnd()]

    def _check_evaluations(
        self, args: MultiTaskTrainingArguments, scored: Sequence[str], callbacks: Sequence[TrainerCallback]
    ) -> None:
        """Whether a training is evaluated, and has the metric that decides; a subclass may make metrics of its own."""
        if not scored and (args.eval_strategy != IntervalStrategy.NO or args.eval_on_start):
            go_without_evaluations(args, callbacks=callbacks)
        refuse_watchers_without_evaluations(args, callbacks)
        refuse_watchers_without_metric(args, callbacks)
        if args.eval_strategy != IntervalStrategy.NO and type(self).evaluate is MultiTaskTrainer.evaluate:
            check_watched_metric(args, list(self.tasks.values()), scored)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """As in `Trainer`; a schedule that watches the metric knows which direction is up."""
        with _changed(self.args, lr_scheduler_kwargs=schedule_options(self.args)):
            return super().create_scheduler(num_training_steps, optimizer)

    # ---- data ----

    def _rows_for_training(self, given: Mapping[str, Dataset] | Dataset) -> dict[str, Dataset]:
        """Task -> its rows; InputError for a task without any."""
        rows = self.given_rows(given, "train_dataset", others=True)
        for task in self.tasks:
            if task not in rows:
                raise InputError(f"task {task!r}: train_dataset has no rows of it, only of {', '.join(rows)}")
        return rows

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches `{task: {"input_ids": (rows, tokens), ...}}` with each task's exact quota of rows."""
        rows = self.train_dataset
        if rows is None:
            raise InputError("train has no rows: the trainer was built without train_dataset; give {task: rows}")
        self.batch_sampler = TaskBatchSampler(
            rows.lengths,
            batch_size=self._train_batch_size,
            shares=_shares(list(self.tasks.values()), rows, self.args, self._train_batch_size),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            num_processes=self.args.world_size,
            grouped=self.args.train_sampling_strategy == "group_by_length",
        )
        persistent = self.args.dataloader_persistent_workers
        return self._loader(rows, batch_sampler=self.batch_sampler, persistent_workers=persistent)

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

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in `Trainer`.

        Raises:
            InputError: when the checkpoint is not what was saved, has other tasks or the same in another order, lacks
                what the gradient method remembers, or has another method's; or when another run trains into the output
                folder.
            CheckpointError: when a checkpoint cannot be written.
            FloatingPointError: when a task's loss or gradient was not finite in `max_bad_steps` steps in a row; the
                last checkpoint holds the state.
        """
        self.counts.clear()
        self.changes = []
        self.seal.resumed_from = None
        if resume_from_checkpoint:
            wanted = "latest" if resume_from_checkpoint is True else str(resume_from_checkpoint)
            resume_from_checkpoint = choose_checkpoint(wanted, self.args.output_dir)
            self.seal.resumed_from = Path(resume_from_checkpoint)
            self.compare_with(self.seal.resumed_from)
        try:
            with ExitStack() as around:
                around.enter_context(write_errors_named(self.args.output_dir))
                around.enter_context(self.seal.takes_over_rotation(self.args))
                around.enter_context(self.push_checkpoints.takes_over_upload(self.args))
                around.enter_context(self._counting_tokens())
                if resume_from_checkpoint:  # it was evaluated at the start
                    around.enter_context(_changed(self.args, eval_on_start=False))
                if self.args.enable_jit_checkpoint:
                    around.enter_context(self.sigterm.catch_sigterm())
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

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise InputError: trials want `model_init`."""
        raise InputError(NO_SEARCH)

    @contextmanager
    def _counting_tokens(self) -> Iterator[None]:
        """The steps count tokens as `include_num_input_tokens_seen` asks; the Trainer finds none in nested batches."""
        self.counted_tokens = self.args.include_num_input_tokens_seen
        try:
            with _changed(self.args, include_num_input_tokens_seen="no"):
                yield
        finally:
            self.counted_tokens = "no"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the statistics of the steps since the last line, over all processes, and the tokens so far."""
        if "loss" in logs:
            logs.update(self.counts.line())
        if self.counted_tokens != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        super().log(logs, start_time)

    def conflict_share(self) -> float | None:
        """Share of the run's steps in which two tasks' gradients had a negative inner product; None without a step."""
        return self.counts.conflict_share(self.state.log_history)


class _StepHooks(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Tells the trainer where epochs and steps begin."""

    def __init__(self, trainer: MultiTaskTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.seal.resumed_from is not None:
            state.compute_steps(args, state.max_steps)
            self.trainer.apply_to_what_was_loaded()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Resumed in mid-epoch on several processes, the Trainer sets the epoch of a wrapper instead of the sampler.
        self.trainer.batch_sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            trainer, checkpoint = self.trainer, Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_method(trainer.gradient_method, checkpoint)
            write_settings(checkpoint, trainer.settings(), trainer.encoder_at_start, trainer.changes)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()
        if max(self.trainer.counts.bad_steps.values()) >= args.max_bad_steps:
            control.should_save = control.should_training_stop = True
