"""The evaluation half of the trainer: every task on its own rows, with its own metrics."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, PredictionOutput, speed_metrics

from ..data.given_rows import checked_rows, rows_by_task
from ..data.tokenization import TaskCollator, TaskRows
from ..errors import InputError
from ..seeding import seeded_generator
from ..tasks.labels import has_label
from ..tasks.spec import TaskSpec
from .own_loss import loss_and_outputs


def sort_by_length(task: str, rows: Dataset) -> tuple[TaskRows, NDArray[np.int64]]:
    """The rows of one task from the longest to the shortest, and where each stood. *Shape:* (rows,)

    Batches then have little padding, and a lack of memory shows at once.
    """
    order = np.argsort(-np.asarray(rows["length"]), kind="stable")
    return TaskRows({task: rows.select(order)}), order


def longest_row(encoder: nn.Module) -> int | None:
    """The most tokens that an encoder has positions for; None where positions are relative, without end."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    # Where padding has a position, those of tokens begin behind it.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


class TaskEvaluation(Trainer):  # type: ignore[misc]  # transformers' base class is untyped
    """A Trainer that evaluates and predicts task by task; `MultiTaskTrainer` adds the training.

    Attributes:
        tasks: task -> its declaration.
    """

    tasks: dict[str, TaskSpec]

    def given_rows(
        self, given: Mapping[str, Dataset] | Dataset, argument: str, *, others: bool = False, labelled: bool = True
    ) -> dict[str, Dataset]:
        """Task -> its rows, checked; what cannot be batched and scored is an InputError."""
        collator, embeddings = self.data_collator, self.model.get_input_embeddings()
        check = functools.partial(
            checked_rows,
            vocab_size=getattr(embeddings, "num_embeddings", None),
            positions=longest_row(self.model.encoder),
            inputs=collator.tokenizer.model_input_names if type(collator) is TaskCollator else (),
            labelled=labelled,
        )
        by_task = rows_by_task(given, list(self.tasks), argument, others=others)
        return {task: check(rows, self.tasks[task], argument) for task, rows in by_task.items()}

    def has_stock_loss(self) -> bool:
        """Whether `compute_loss` is the Trainer's, not a subclass's or one that somebody put in its place."""
        return getattr(self.compute_loss, "__func__", None) is Trainer.compute_loss

    def get_eval_dataloader(self, eval_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        return self._loader(eval_dataset, batch_size=self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, rows: TaskRows, **batches: Any) -> DataLoader[Any]:
        args = self.args
        # A collator or rows of somebody else's may do more than these, row by row.
        by_column = type(self.data_collator) is TaskCollator and type(rows) is TaskRows
        loader = DataLoader(
            rows.by_column() if by_column else rows,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            prefetch_factor=args.dataloader_prefetch_factor,
            **batches,
        )
        return self.accelerator.prepare(loader)

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
        self._memory_tracker.start()
        start = time.time()
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        if given is None:
            raise InputError("evaluate has no rows: the trainer was built without eval_dataset; give {task: rows}")
        rows = self.given_rows(given, "eval_dataset")
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
        from ..tasks.metrics import average_score  # late: evaluate and scipy take a second to import

        metrics: dict[str, float] = {}
        for task in rows:
            sorted_rows, _ = sort_by_length(task, rows[task])  # scores do not ask for the order
            loader = self.get_eval_dataloader(sorted_rows)
            # Metrics take logits, whatever `prediction_loss_only` is for `predict`.
            output = self.evaluation_loop(
                loader, "Evaluation", False, ignore_keys, metric_key_prefix=f"{prefix}_{task}"
            )
            metrics.update(output.metrics)
        metrics[f"{prefix}_average"] = average_score([self.tasks[task] for task in rows], metrics, prefix)
        return metrics

    def predict(
        self,
        test_dataset: Mapping[str, Dataset] | Dataset,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> Any:
        """Logits of every task's rows, in the rows' order, and the scores of those that have a label.

        Args:
            test_dataset: task -> rows, or the rows of the only task; without labels, or with NaN where one is missing.
            ignore_keys: outputs of the model to leave out.
            metric_key_prefix: the metrics' names are "<prefix>_<task>_<metric>".

        Returns:
            Task -> `PredictionOutput`; of bare rows, the one.

        Raises:
            InputError: for rows that cannot be batched, and labels that the task does not declare.
        """
        by_task = self.given_rows(test_dataset, "test_dataset", labelled=False)
        outputs = {
            task: self._predict(task, rows, ignore_keys, f"{metric_key_prefix}_{task}")
            for task, rows in by_task.items()
        }
        return outputs if isinstance(test_dataset, Mapping) else outputs.popitem()[1]

    def _predict(self, task: str, rows: Dataset, ignore_keys: list[str] | None, prefix: str) -> PredictionOutput:
        """What `predict` gives of one task: its rows go through the model by length and come back in order."""
        known = has_label(rows["labels"][:]) if "labels" in rows.column_names else np.zeros(0, dtype=bool)
        labels = None if known.all() else np.asarray(rows["labels"])  # else the loop scores them
        rows, order = sort_by_length(task, rows if labels is None else rows.remove_columns("labels"))
        output = super().predict(rows, ignore_keys, prefix)
        back = np.argsort(order)
        logits, found = (None if each is None else each[back] for each in (output.predictions, output.label_ids))
        if labels is None:
            return output._replace(predictions=logits, label_ids=found)
        if known.any() and logits is not None:
            scores = self.compute_metrics(EvalPrediction(logits[known], labels[known]))
            output.metrics.update({f"{prefix}_{name}": value for name, value in scores.items()})
        return output._replace(predictions=logits, label_ids=labels)

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
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and labels of a batch of one task; other outputs are left out, in `ignore_keys` or not."""
        self.check_batch(inputs)
        ((task, batch),) = self._prepare_inputs(inputs).items()
        labels = batch.get("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is None:
                loss, outputs = None, model(task=task, **batch)
            else:
                given = self.compute_loss(model, {"task": task, **batch}, return_outputs=True)
                loss, outputs = loss_and_outputs(given, task)
        return (loss, None, None) if prediction_loss_only else (loss, outputs["logits"], labels)

    def check_batch(self, inputs: object) -> None:
        """Raise InputError unless a batch is by task; a collator of the user's may have made something else."""
        if not isinstance(inputs, Mapping) or not inputs.keys() <= self.tasks.keys():
            found = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise InputError(f"data_collator gave a batch of {found}, wanted {{task: batch}} as TaskCollator gives it")

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of the task that is being evaluated, from logits and labels.

        Its exact mean loss is among them, but where `compute_loss` is somebody's own, whose mean the loop takes.
        """
        from ..tasks.metrics import task_scores

        task = self._evaluated_task
        spec, head = self.tasks[task], self.model.heads[task]
        logits = torch.from_numpy(prediction.predictions)
        labels = torch.from_numpy(prediction.label_ids).to(head.label_dtype)
        scores = task_scores(spec, head.decode(logits).numpy(), labels.numpy())
        loss = {"loss": self.model.mean_loss(task, logits, labels).item()} if self.has_stock_loss() else {}
        return {**scores, **loss}
