"""Scores of every task on its own rows, with its own metrics. It knows no Trainer: loops come as arguments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers.trainer_utils import EvalPrediction, PredictionOutput

from ..data.task_rows import TaskRows
from ..errors import InputError
from ..model.heads import Head, Kept
from ..model.modeling import MultiTaskModel
from ..seeding import seeded_generator
from ..tasks.labels import has_label
from ..tasks.spec import TaskSpec

logger = logging.getLogger(__name__)
MetricFunction = Callable[[EvalPrediction], Mapping[str, float]]
TAKEN = ("loss", "average")  # what a run's own scores are called
# (rows of one task, prefix) -> its metrics under the prefix
Loop = Callable[[TaskRows, str], Mapping[str, float]]


class TaskEvaluator:
    """Scores tasks from logits and labels.

    Args:
        model: its heads read the logits.
        tasks: task -> its declaration.
        functions: task -> a function of the user's, whose values join the metrics that the task declares.
        with_loss: whether the loss of a task's kind is what is trained on, and so belongs to its scores.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskSpec],
        functions: Mapping[str, MetricFunction],
        *,
        with_loss: bool,
    ) -> None:
        self.model, self.tasks, self.functions, self.with_loss = model, tasks, functions, with_loss
        # Where the rows that go through the model stood, while they do: a function of the user's gets them in order.
        self._order: NDArray[np.int64] | None = None
        self._fits = False

    def scores(self, task: str, prediction: EvalPrediction) -> dict[str, float]:
        """Metric -> value, of one task.

        Args:
            task: whose rows they are.
            prediction: what the head kept of all batches, which is the logits of most kinds, and the labels.
                *Shapes:* (rows, ...), (rows, ...)

        Raises:
            InputError: for a function of the user's that gives no mapping of names to numbers.
        """
        from ..tasks.metrics import task_scores  # late: evaluate and scipy take a second to import

        head, kept = self._head(task), as_tensors(prediction.predictions)
        labels = torch.from_numpy(prediction.label_ids).to(head.label_dtype)
        if self._fits:
            head.fit(kept, labels)
        answers, found = head.kept_predictions(kept).numpy(), head.kept_scores(kept)
        of_scores = None if found is None else found.numpy()
        scores = dict(task_scores(self.tasks[task], answers, labels.numpy(), of_scores))
        if self.with_loss:
            scores["loss"] = head.kept_loss(kept, labels).item()
        if task in self.functions:  # last, as it may change what it gets
            scores.update(_as_scores(self.functions[task](self._in_order(prediction)), task, self.tasks.values()))
        return scores

    def _in_order(self, prediction: EvalPrediction) -> EvalPrediction:
        """Logits and labels in the order of the data set's rows."""
        if self._order is None:
            return prediction
        back = np.argsort(self._order)
        return EvalPrediction(picked(prediction.predictions, back), prediction.label_ids[back])

    def _head(self, task: str) -> Head:
        head: Any = self.model.heads[task]
        return head

    def fitted_heads(self) -> dict[str, str]:
        """Task -> what its head takes from the validation rows, of the tasks whose head takes something."""
        return {task: found for task in self.tasks if (found := self._head(task).fitted)}

    def tell_unfitted(self, validated: Collection[str]) -> None:
        """Say which heads take something from validation rows and have none."""
        for task, found in self.fitted_heads().items():
            if task not in validated:
                logger.warning("task %r: no validation rows, so its %s stay as they are", task, found)

    def prepare_heads(self, rows: Mapping[str, Dataset]) -> None:
        """Let the heads see the labels of the training rows."""
        for task in self.tasks:
            self._head(task).prepare(rows[task]["labels"])

    def kept(self, task: str, logits: Tensor, batch: Mapping[str, Tensor]) -> Kept:
        """What evaluation keeps of a batch."""
        return self._head(task).keep(logits, batch.get("labels"), batch)

    def decoded(self, task: str, predictions: Any) -> NDArray[Any]:
        """A prediction per row, as the task's head gives them to be written. *Shape:* (rows, ...)

        Args:
            task: whose rows they are.
            predictions: of `PredictionOutput`: what the head kept.
        """
        answers: NDArray[Any] = self._head(task).kept_answers(as_tensors(predictions)).numpy()
        return answers

    def evaluate(self, rows: Mapping[str, Dataset], prefix: str, loop: Loop, *, fits: bool = False) -> dict[str, float]:
        """Every task's metrics as "<prefix>_<task>_<metric>", and the average of the main ones.

        Args:
            rows: task -> rows with labels.
            prefix: of the metrics' names.
            loop: passes the rows of one task through the model.
            fits: whether heads may take what no gradient teaches from these rows: those of validation.
        """
        from ..tasks.metrics import average_score  # late, as above

        metrics: dict[str, float] = {}
        for task in rows:
            sorted_rows, self._order = sort_by_length(task, rows[task])
            self._fits = fits
            try:
                metrics.update(loop(sorted_rows, f"{prefix}_{task}"))
            finally:
                self._order, self._fits = None, False
        metrics[f"{prefix}_average"] = average_score([self.tasks[task] for task in rows], metrics, prefix)
        return metrics

    def weighted_loss(self, tasks: Iterable[str], metrics: Mapping[str, float], prefix: str) -> float:
        """The sum of the tasks' losses, each times its weight."""
        return sum(self.tasks[task].loss_weight * metrics[f"{prefix}_{task}_loss"] for task in tasks)

    def predict(
        self, task: str, rows: Dataset, prefix: str, predict: Callable[[TaskRows], PredictionOutput]
    ) -> PredictionOutput:
        """Predictions in the order of the rows, which go through the model by length, and scores where labels are.

        Args:
            task: whose rows they are.
            rows: without labels, or with NaN where one is missing.
            prefix: of the metrics' names.
            predict: predicts, and scores rows of which all have labels.
        """
        known = has_label(rows["labels"][:]) if "labels" in rows.column_names else np.zeros(0, dtype=bool)
        labels = None if known.all() else np.asarray(rows["labels"])  # else the loop scores them
        sorted_rows, order = sort_by_length(task, rows if labels is None else rows.remove_columns("labels"))
        self._order = order
        try:
            output = predict(sorted_rows)
        finally:
            self._order = None
        back = np.argsort(order)
        logits, found = picked(output.predictions, back), picked(output.label_ids, back)
        if labels is None:
            return output._replace(predictions=logits, label_ids=found)
        if known.any() and logits is not None:
            scores = self.scores(task, EvalPrediction(picked(logits, known), labels[known]))
            output.metrics.update({f"{prefix}_{name}": value for name, value in scores.items()})
        return output._replace(predictions=logits, label_ids=labels)


def as_tensors(kept: Any) -> Any:
    """One array or several as tensors."""
    return tuple(map(torch.from_numpy, kept)) if isinstance(kept, tuple) else torch.from_numpy(kept)


def picked(kept: Any, where: NDArray[Any]) -> Any:
    """Some of the rows of one array, or of several; None of nothing."""
    if isinstance(kept, tuple):
        return tuple(each[where] for each in kept)
    return None if kept is None else kept[where]


def _as_scores(given: object, task: str, tasks: Iterable[TaskSpec]) -> dict[str, float]:
    """What a function of the user's gave, as floats.

    Raises:
        InputError: unless it maps names to numbers, none of them among `TAKEN` or a metric that `tasks` declare.
    """
    declared = {f"{spec.name}_{metric}" for spec in tasks for metric in (*spec.metrics, *TAKEN)}
    try:
        scores = {str(name): float(value) for name, value in dict(given).items()}  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"compute_metrics of task {task!r} gives {given!r:.60}, wanted {{name: number}}, as for Trainer"
        ) from error
    for name in scores:
        if not name or name in TAKEN:
            raise InputError(
                f"compute_metrics of task {task!r} gives a metric called {name!r}; wanted a name that is not empty and "
                f"none of {', '.join(TAKEN)}"
            )
        if f"{task}_{name}" in declared:
            raise InputError(
                f"compute_metrics of task {task!r} gives a metric called {name!r}, which would replace "
                f"{task}_{name} that the tasks declare; give it another name"
            )
    return scores


def sort_by_length(task: str, rows: Dataset) -> tuple[TaskRows, NDArray[np.int64]]:
    """The rows of one task from the longest to the shortest, and where each stood. *Shape:* (rows,)

    Batches then have little padding, and a lack of memory shows at once.
    """
    lengths = rows.with_format("arrow")[:]["length"].to_numpy()
    order = np.argsort(-lengths, kind="stable")
    return TaskRows({task: rows}, order), order


def training_sample(rows: Mapping[str, Dataset], size: int, seed: int) -> dict[str, Dataset]:
    """The same rows of every task whenever it is called, on every rank.

    Args:
        rows: task -> its training rows.
        size: the most rows of a task.
        seed: of the run.
    """
    sample = {}
    for number, (task, own) in enumerate(rows.items()):
        order = torch.randperm(len(own), generator=seeded_generator(seed, number, len(own)))
        sample[task] = own.select(order[:size].tolist())
    return sample
