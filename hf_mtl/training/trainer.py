"""`MultiTaskTrainer`: the Hugging Face Trainer with every task in every step and the tasks' gradients combined.

The parts do the work: `step` the gradients, `evaluator` the scores, `publisher` the card and the upload, `checkpoints`
what happens around a save, `settings` what a resumed run goes on with. The trainer wires them to the Trainer's hooks.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, IntervalStrategy, TrainOutput, speed_metrics

from ..data.collator import TaskCollator
from ..data.task_rows import TaskRows
from ..errors import InputError
from ..gradients.method_state import save_method
from ..hub.upload import PUSH_FAILURES, check_write_access, make_branch, reason_of
from ..model.encoding import padded_right
from ..model.modeling import MultiTaskModel
from ..tasks.spec import TaskSpec
from ..tasks.task_list import check_tasks
from .arguments import MultiTaskTrainingArguments
from .batches import TrainSampler, check_batch, data_order, given_rows, make_loader, train_sampler, training_rows
from .checkpoint_callbacks import NO_STOCK_SAVES, ArgumentsAside, CheckpointManager, SkipStartEvaluation
from .checkpoints import choose_checkpoint, say_what_is_later, unlocking_output_folder, write_errors_named
from .early_stopping import EarlyStopping, KeepPatience
from .evaluation import TaskEvaluator, training_sample
from .hub_sync import CheckpointPusher
from .joint_step import JointStep
from .learning_rates import optimizer_by_depth, rates_by_depth
from .own_loss import check_loss, check_own_loss, is_stock_loss, loss_and_outputs
from .progress import TaskBars, TaskLines
from .publishing import END_OF_TRAINING, Publisher, RunRecord, step_of_weights
from .run_settings import RunSettings, chosen_optimizer
from .schedule import UnfreezeSchedule
from .soup import check_soup, make_soup
from .step_callback import StepCallback
from .step_statistics import tokens_seen
from .teachers import Teachers
from .trainer_checks import (
    NO_SEARCH,
    check_arguments,
    check_callbacks,
    check_model,
    check_options,
    check_set_up,
    metric_functions,
)
from .trainer_parts import changed, compile_layers, make_step, new_optimizer, without_token_warning
from .unfreezing import GradualUnfreezing, stages_of_run
from .unsupported import shards_gradients
from .watched_metric import (
    check_evaluations,
    check_own_schedule,
    check_watched_metric_is_there,
    schedule_options,
)
from .weight_average import AverageWeights, ShowAverage, WeightAverage, check_average, of_the_average


class MultiTaskTrainer(Trainer):  # type: ignore[misc]  # transformers' base class is untyped
    """A Trainer for several tasks at once.

    Args:
        model: has a head for every task; `model_init` in its place is refused.
        args: the arguments; `gradient_method`, `task_sampling`, `unfreeze_schedule` and `optimizer` are among them.
        tasks: the tasks, in the order in which they are listed everywhere.
        train_dataset: task -> rows from `load_task_data`; every task has some. With one task, its rows will do.
        eval_dataset: the same; tasks that it lacks are not scored, nor those that it has beside all of `tasks`.
        processing_class: the tokenizer; it pads, and is saved with the model.
        callbacks: further callbacks.
        compute_metrics: task -> a function of `EvalPrediction`, whose values join those that the task declares.
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
        compute_metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs, callbacks = check_options(kwargs), check_callbacks(callbacks)
        model, args, tasks = check_model(model), check_arguments(args), check_tasks(tasks)
        tasks = check_set_up(model, args, tasks, processing_class, kwargs)
        self.tasks = {spec.name: spec for spec in tasks}
        self.model, self.data_collator = model, kwargs.pop("data_collator", None) or TaskCollator(processing_class)
        functions = metric_functions(compute_metrics, self.tasks)
        if not (stock_loss := is_stock_loss(self.compute_loss)):
            check_own_loss(self.compute_loss, shards=shards_gradients(model, args))
        self.evaluator = TaskEvaluator(model, self.tasks, functions, with_loss=stock_loss)
        self.publisher = Publisher(args, model.config, tasks)
        self.teachers = Teachers(args, model, self.tasks, processing_class, trains=train_dataset is not None)
        self.settings = RunSettings(args, model, self.tasks, self.teachers.digests)
        self.pusher = CheckpointPusher()
        self.average = WeightAverage(model)
        self._aside = ArgumentsAside()
        self.checkpoints = CheckpointManager(self._write_memory, self.data_order, self.pusher, self._aside)

        self.unfreeze_schedule = UnfreezeSchedule.parse(args.unfreeze_schedule)
        self.unfreezing: GradualUnfreezing | None = None
        if self.unfreeze_schedule is not None and train_dataset is not None:
            self.unfreeze_schedule.check(model.encoder.config.num_hidden_layers)
            self.unfreezing = GradualUnfreezing(self.unfreeze_schedule)
            callbacks = [*callbacks, self.unfreezing]
        if (chosen := chosen_optimizer(args)) is not None:
            kwargs["optimizer_cls_and_kwargs"] = chosen
        rows, eval_dataset = self._checked_rows(args, train_dataset, eval_dataset, callbacks)
        self.settings.scored = list(eval_dataset or ())
        if args.torch_compile:
            compile_layers(model, args)
        untrained = {"eval_strategy": IntervalStrategy.NO} if rows is None else {}  # else it would want `eval_dataset`
        with changed(args, enable_jit_checkpoint=False, **untrained):  # see CheckpointManager
            super().__init__(
                model=model,
                args=args,
                train_dataset=rows,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                data_collator=self.data_collator,
                compute_metrics=self.compute_metrics,
                callbacks=callbacks,
                **kwargs,
            )
        check_own_schedule(self.lr_scheduler, args)
        if rows is not None:
            cls = type(self.optimizer) if self.optimizer is not None else new_optimizer(self)[0]
            check_average(args, cls)
            self.settings.optimizer_class = f"{cls.__module__}.{cls.__qualname__}"
        self.step = make_step(
            model,
            args,
            self.tasks,
            loss_of=self._loss_of,
            losses_of=lambda batches: self.model_wrapped(batches=batches).loss,
            context=self.compute_loss_context_manager,
            stock_loss=stock_loss,
            mixed_precision=self.accelerator.mixed_precision,
        )
        self._add_own_callbacks(args)

    def _add_own_callbacks(self, args: MultiTaskTrainingArguments) -> None:
        """Add those of every run, in the order in which they act; the user's stand before them."""
        self.callback_handler.callbacks[:0] = [self._aside, AverageWeights(self.average, self.checkpoints)]
        self.remove_callback(PrinterCallback)
        shows_bars = self.pop_callback(ProgressCallback) is not None
        patience = args.early_stopping_patience
        for callback in (
            StepCallback(
                self.step,
                self.settings,
                self.checkpoints,
                lambda: self.batch_sampler,
                own_groups=not self.is_deepspeed_enabled,
            ),
            *([] if patience is None else [EarlyStopping(early_stopping_patience=patience)]),
            KeepPatience(lambda: self.callback_handler.callbacks),
            self.checkpoints,
            ShowAverage(self.average),
            *([TaskBars()] if shows_bars else []),
            TaskLines(list(self.tasks.values())),
        ):
            self.add_callback(callback)

    def _checked_rows(
        self,
        args: MultiTaskTrainingArguments,
        train_dataset: Mapping[str, Dataset] | Dataset | None,
        eval_dataset: Mapping[str, Dataset] | Dataset | None,
        callbacks: Sequence[TrainerCallback],
    ) -> tuple[TaskRows | None, dict[str, Dataset] | None]:
        """The rows to train on and to evaluate, where there are any; InputError where a training could not end well."""
        rows = validated = None
        if train_dataset is not None:
            rows = training_rows(self._given_rows(train_dataset, "train_dataset", others=True), self.tasks)
            self.make_batch_sampler(rows, args, args.train_batch_size)  # refuses a batch that is too small
        if eval_dataset is not None:
            validated = self._given_rows(eval_dataset, "eval_dataset", others=True)
        if rows is not None:
            check_soup(args)
            check_evaluations(
                args,
                self.tasks,
                list(validated or ()),
                callbacks,
                with_function=self.evaluator.functions,
                metrics_are_known=self._metrics_are_known(),
            )
            self.evaluator.tell_unfitted(validated or ())
        return rows, validated

    def _metrics_are_known(self) -> bool:
        """Whether evaluations are the trainer's own: a subclass may make metrics of its own."""
        return type(self).evaluate is MultiTaskTrainer.evaluate

    def _given_rows(self, given: Any, argument: str, **options: bool) -> dict[str, Dataset]:
        return given_rows(given, argument, self.tasks, self.model, self.data_collator, **options)

    # ---- batches ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches `{task: {"input_ids": (rows, tokens), ...}}` with each task's exact quota of rows."""
        rows, args = self.train_dataset, self.args
        if rows is None:
            raise InputError("train has no rows: the trainer was built without train_dataset; give {task: rows}")
        self.batch_sampler = self.make_batch_sampler(rows, args, self._train_batch_size)
        batches = {"batch_sampler": self.batch_sampler, "persistent_workers": args.dataloader_persistent_workers}
        batches["in_order"] = getattr(args, "dataloader_in_order", True)  # predictions always are in the rows' order
        loader = make_loader(self.teachers.with_answers(rows), self.data_collator, args, **batches)
        return self.accelerator.prepare(loader)

    def make_batch_sampler(self, rows: TaskRows, args: MultiTaskTrainingArguments, batch_size: int) -> TrainSampler:
        """Deals the training rows; InputError for arguments that give no batches."""
        return train_sampler(list(self.tasks.values()), rows, args, batch_size)

    def joint_tasks(self) -> list[str]:
        """The tasks that the rows of a batch are shared among."""
        return list(self.tasks)

    def get_eval_dataloader(self, eval_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        loader = make_loader(eval_dataset, self.data_collator, self.args, batch_size=self.args.eval_batch_size)
        return self.accelerator.prepare(loader)

    def get_test_dataloader(self, test_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        return self.get_eval_dataloader(test_dataset)

    def data_order(self) -> dict[str, Any]:
        """What the batches of a run follow from, beside its data."""
        return data_order(self.batch_sampler, self.tasks, self.args, self._train_batch_size)

    def passes(self) -> dict[str, float]:
        """Task -> how often its rows were seen in training: 0.5 is half of them once. Empty without a training."""
        sampler = getattr(self, "batch_sampler", None)
        if sampler is None or not self.state.global_step:
            return {}
        return dict(zip(self.tasks, sampler.passes(self.state.epoch or 0.0).tolist(), strict=True))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of a step, which the step sees before the first of them; their tokens are counted.

        None once the run is at its last step or stopped: resumed there in mid-epoch, the Trainer would train one more.
        """
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.state.num_input_tokens_seen += tokens_seen(batches, self.args.include_num_input_tokens_seen, device)
        self.step.expect(batches, device)
        return batches, None

    # ---- training ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, dict[str, Tensor]], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Every task's gradient; at the step's last micro-batch they are combined. `MultiTaskStep.run` does it.

        Args:
            model: as the engine wrapped it, which only an engine that shards needs.
            inputs: task -> its rows.
            num_items_in_batch: not used: the step counts by task.

        Returns:
            The weighted sum of the tasks' losses that are finite, divided by the micro-batches of the step. *Shape:* ()
        """
        check_batch(inputs, self.tasks)
        self.model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        accelerator = self.accelerator
        # DeepSpeed would divide by the micro-batches, which the row counts have done.
        options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        losses = self.step.run(
            self.teachers.mixed(self._prepare_inputs(inputs), self.state.global_step, self.state.max_steps),
            backward=functools.partial(accelerator.backward, **options),
            sync=accelerator.sync_gradients,
            scaler=accelerator.scaler,
        )
        if (every := self.args.torch_empty_cache_steps) is not None and self.state.global_step % every == 0:
            clear_device_cache()
        total = torch.stack([self.tasks[task].loss_weight * loss for task, loss in losses.items()])
        return total.nan_to_num(0.0, 0.0, 0.0).sum() / self.current_gradient_accumulation_steps

    def _ask_for_stock_loss(self) -> None:
        """Notice a `compute_loss` that was put in the place of the trainer's after it was built."""
        stock = is_stock_loss(self.compute_loss)
        self.evaluator.with_loss = self.step.stock_loss = stock
        if self.step.strategy is not None and not stock:
            self.step.strategy.may_pack = False

    def _loss_of(self, task: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of one task's rows, as `compute_loss` gives it."""
        loss = self.compute_loss(self.model, {"task": task, **batch})
        check_loss(loss, task)
        return loss

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
        self._ask_for_stock_loss()
        self.step.begin_run()
        if self.train_dataset is not None:  # else the dataloader says so
            self.evaluator.prepare_heads(self.train_dataset.tasks)
        self.settings.changes, self.checkpoints.resumed_from = [], None
        if resume_from_checkpoint:
            wanted = "latest" if resume_from_checkpoint is True else str(resume_from_checkpoint)
            resume_from_checkpoint = choose_checkpoint(wanted, self.args.output_dir)
            self._go_on_from(Path(resume_from_checkpoint))
        with unlocking_output_folder(Path(self.args.output_dir)):
            output = self._train_all_steps(resume_from_checkpoint or None, *args, **kwargs)
            make_soup(self)  # of checkpoints in the folder
        return output

    def _train_all_steps(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """The Trainer's own `train`, in its surroundings."""
        try:
            with ExitStack() as around:
                around.enter_context(write_errors_named(self.args.output_dir))
                around.enter_context(self.checkpoints.catching_sigterm(self.args))
                around.enter_context(without_token_warning())
                output = super().train(*args, **kwargs)
            self._show_optimizers_average()
        finally:
            self._aside.put_back(self.args)
            self.remove_callback(SkipStartEvaluation)
            self.step.close()
            if self.unfreezing is not None:
                self.unfreezing.put_back()
        self.step.statistics.raise_for_bad_steps(self.args.max_bad_steps, self.state.global_step, self.args.output_dir)
        return output

    def _show_optimizers_average(self) -> None:
        """Where the optimizer averages weights itself, let the model have the average until the next step."""
        if callable(getattr(self.optimizer, "eval", None)):
            self.optimizer.eval()

    def _load_best_model(self) -> None:
        """As in `Trainer`; an optimizer that shows its average later would take the best weights for those it left."""
        self._show_optimizers_average()
        super()._load_best_model()

    def _go_on_from(self, checkpoint: Path) -> None:
        new = functools.partial(new_optimizer, self) if self.optimizer is None else None
        self.settings.go_on_from(checkpoint, self.step.method, new)
        if (chosen := chosen_optimizer(self.args)) is not None:  # some options are no part of the state that is loaded
            self.optimizer_cls_and_kwargs = chosen
        self.checkpoints.resumed_from = checkpoint
        say_what_is_later(checkpoint, self.args.output_dir)
        if self.args.eval_on_start:
            self.add_callback(SkipStartEvaluation(self._aside))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As in `Trainer`; the settings remember rates and weight decay that are asked for."""
        if self.optimizer is None and rates_by_depth(self.args):
            self.optimizer: Any = optimizer_by_depth(self, new_optimizer(self))
        optimizer = super().create_optimizer(*args, **kwargs)
        self.settings.note_optimizer(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """As in `Trainer`; a schedule that watches the metric knows which direction is up."""
        with changed(self.args, lr_scheduler_kwargs=schedule_options(self.args)):
            return super().create_scheduler(num_training_steps, optimizer)

    def create_accelerator_and_postprocess(self) -> None:
        """As in `Trainer`, which would compile the whole model, with a graph per task and length."""
        with changed(self.args, torch_compile_backend=None, torch_compile_mode=None):
            super().create_accelerator_and_postprocess()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the statistics of the steps since the last line, over all processes."""
        if "loss" in logs:
            logs.update(self.step.statistics.line())
        super().log(logs, start_time)
        if END_OF_TRAINING in logs:
            self._aside.set_aside(self.args, NO_STOCK_SAVES)

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise InputError: trials want `model_init`."""
        raise InputError(NO_SEARCH)

    # ---- evaluation ----

    @of_the_average
    def evaluate(
        self,
        eval_dataset: Mapping[str, Dataset] | Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Every task's metrics as "<prefix>_<task>_<metric>", and their mean "<prefix>_average" over the main ones.

        Without `eval_dataset`, the fixed sample of training rows is scored too, under the prefix "train".
        `on_evaluate` fires once, with everything, so that early stopping and the best model can use any of it.

        Args:
            eval_dataset: task -> rows with labels, or the rows of the only task; the trainer's own unless given.
            ignore_keys: outputs of the model to leave out.
            metric_key_prefix: what the metrics' names begin with.

        Raises:
            InputError: for rows that cannot be scored, and where there are none.
        """
        self._ask_for_stock_loss()
        self._memory_tracker.start()
        start = time.time()
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        if given is None:
            raise InputError("evaluate has no rows: the trainer was built without eval_dataset; give {task: rows}")
        rows = self._given_rows(given, "eval_dataset")

        def loop(task_rows: TaskRows, prefix: str) -> Mapping[str, float]:
            # Metrics take logits, whatever `prediction_loss_only` is for `predict`.
            loader = self.get_eval_dataloader(task_rows)
            return self.evaluation_loop(loader, "Evaluation", False, ignore_keys, metric_key_prefix=prefix).metrics

        fits = eval_dataset is None and self.train_dataset is not None  # a saved model stays what it is
        metrics = self.evaluator.evaluate(rows, metric_key_prefix, loop, fits=fits)
        metrics[f"{metric_key_prefix}_loss"] = self.evaluator.weighted_loss(rows, metrics, metric_key_prefix)
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=sum(map(len, rows.values()))))
        size = self.args.train_metric_rows
        if eval_dataset is None and self.train_dataset is not None and size > 0:
            sample = training_sample(self.train_dataset.tasks, size, self.args.seed)
            metrics.update(self.evaluator.evaluate(sample, "train", loop))
        if self.is_in_train and eval_dataset is None and self._metrics_are_known():
            check_watched_metric_is_there(self.args, metrics)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    @of_the_average
    def predict(
        self,
        test_dataset: Mapping[str, Dataset] | Dataset,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> Any:
        """Predictions for every task's rows, in the rows' order, and the scores of those that have a label.

        They are logits, but of a kind whose head keeps less; `evaluator.decoded` makes answers of either.

        Args:
            test_dataset: task -> rows, or the rows of the only task; without labels, or with NaN or None where one is
                missing.
            ignore_keys: outputs of the model to leave out.
            metric_key_prefix: the metrics' names are "<prefix>_<task>_<metric>".

        Returns:
            Task -> `PredictionOutput`; of bare rows, the one.

        Raises:
            InputError: for rows that cannot be batched, and labels that the task does not declare.
        """
        outputs = {}
        for task, rows in self._given_rows(test_dataset, "test_dataset", labelled=False).items():
            prefix = f"{metric_key_prefix}_{task}"
            stock = functools.partial(super().predict, ignore_keys=ignore_keys, metric_key_prefix=prefix)
            outputs[task] = self.evaluator.predict(task, rows, prefix, stock)
        return outputs if isinstance(test_dataset, Mapping) else outputs.popitem()[1]

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The stock loop over the rows of one task; `compute_metrics` learns which."""
        (self._evaluated_task,) = dataloader.dataset.tasks
        try:
            return super().evaluation_loop(dataloader, *args, **kwargs)
        finally:  # accelerate keeps every loader, and with it its rows
            kept = self.accelerator._dataloaders
            kept[:] = [each for each in kept if each is not dataloader]

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, dict[str, Tensor]],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """Loss, what the head keeps of the logits, and labels of a batch of one task; other outputs are left out."""
        check_batch(inputs, self.tasks)
        ((task, batch),) = self._prepare_inputs(inputs).items()
        labels = batch.get("labels")
        with torch.no_grad(), self.step.around_forward(), self.compute_loss_context_manager():
            if labels is None:
                loss, outputs = None, model(task=task, **batch)
            else:
                given = self.compute_loss(model, {"task": task, **batch}, return_outputs=True)
                loss, outputs = loss_and_outputs(given, task)
        if prediction_loss_only:
            return loss, None, None
        return loss, self.evaluator.kept(task, outputs["logits"], batch), labels

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of the task that is being evaluated, from logits and labels."""
        return self.evaluator.scores(self._evaluated_task, prediction)

    # ---- saving and publishing ----

    def _write_memory(self, checkpoint: Path) -> None:
        """Put into a checkpoint what a resumed run needs beside the Trainer's files."""
        save_method(self.step.method, checkpoint)
        self.settings.batch_size = self._train_batch_size
        self.settings.write(checkpoint)
        self.average.write(checkpoint)

    @of_the_average
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Put the model and the tokenizer into a folder, the output folder unless given.

        The Trainer's own also pickles the arguments, and with them the hub's token and folders of this machine.
        """
        self._show_optimizers_average()
        folder, main = output_dir or self.args.output_dir, self.args.should_save
        if isinstance(self.step, JointStep):  # the shards are gathered, which takes every process
            engine = self.is_deepspeed_enabled or self.is_fsdp_enabled
            weights = self.accelerator.get_state_dict(self.model_wrapped) if engine else None
            self.model.save_pretrained(folder, state_dict=weights, is_main_process=main)
        elif main:
            self.model.save_pretrained(folder)
        if main and self.processing_class is not None:
            padded_right(self.processing_class).save_pretrained(folder)
        if _internal_call and Path(folder).name == f"checkpoint-{self.state.global_step}":
            self._aside.set_aside(self.args, NO_STOCK_SAVES)

    def save_final(self) -> None:
        """Put the model and the tokenizer into the output folder, where `from_pretrained` finds them."""
        with write_errors_named(self.args.output_dir):
            self.save_model()

    def record(self) -> RunRecord:
        """What is known of the run, for those who publish it."""
        splits = {"train": self.train_dataset.tasks if self.train_dataset else None, "validation": self.eval_dataset}
        history, state, args = self.state.log_history, self.state, self.args
        best = state.best_global_step if state.best_model_checkpoint else None  # without a checkpoint none was loaded
        schedule, sampler = self.unfreeze_schedule, getattr(self, "batch_sampler", None)
        return RunRecord(
            repo_id=self.hub_model_id or args.hub_model_id or Path(args.output_dir).absolute().name,
            log_history=history,
            step=state.global_step,
            batch_size=self._train_batch_size,
            weights_step=step_of_weights(history, state.global_step, best, best_is_loaded=args.load_best_model_at_end),
            sizes={split: {name: len(rows[name]) for name in rows} for split, rows in splits.items() if rows},
            conflicts=self.step.statistics.conflict_share(history),
            passes=self.passes(),
            changes=self.settings.changes,
            unfreezing={}
            if schedule is None or sampler is None
            else stages_of_run(schedule, args, len(sampler), self.model.config.encoder_config.num_hidden_layers),
            joint_tasks=self.joint_tasks(),
        )

    def draw_curves(self) -> None:
        """Put training_curves.png into the output folder, with a line where layers were unfrozen."""
        self.publisher.draw_curves(self.record())

    def create_model_card(self) -> None:
        """Put the model card into the output folder; what a person wrote into one that is there stays."""
        if self.is_world_process_zero():
            self.publisher.write_card(self.record())

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository on the Hub when the trainer is built, so that a wrong token stops a run at once."""
        if private is not None:
            self.args.hub_private_repo = private  # transformers 5.17 asks there only
        repo_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        try:
            super().init_hf_repo(token=token)
            if self.is_world_process_zero():
                check_write_access(token or self.args.hub_token)
                make_branch(self.hub_model_id, self.args.hub_revision, token or self.args.hub_token)
        except PUSH_FAILURES as error:
            raise InputError(f"hub_model_id {repo_id!r} cannot be pushed to: {reason_of(error)}") from error
        self.pusher.repo_id = self.hub_model_id

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Upload model, tokenizer, card and curves to `args.hub_model_id`; files that may hold secrets stay here.

        Returns:
            The commit's address on the main process, None elsewhere.

        Raises:
            PushError: when the Hub does not take it; the message has the command that uploads it later.
        """
        self.save_final()
        if not self.is_world_process_zero():
            return None
        self.pusher.wait()
        make_repository = functools.partial(self.init_hf_repo, token=token, private=private)
        return self.publisher.push(
            self.record,
            None if self.hub_model_id is not None else make_repository,
            message=commit_message or "End of training",
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            private=bool(self.args.hub_private_repo if private is None else private),
        )
