"""The metrics, as `evaluate.Metric` classes that need no download, and the scores of one task.

All are fractions of which more is better, but for the errors of regression, which are in the label's unit. Where a
score is undefined (a constant prediction has no correlation, and nothing predicted no precision) it is 0.0.
"""

from __future__ import annotations

import logging
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .metric_names import OF_ONE_CLASS
from .spec import TaskSpec

logger = logging.getLogger(__name__)
Array = NDArray[Any]


class _TaskMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Shared description; a subclass gives `value_type` and `score(predictions, references) -> float`.

    Attributes:
        greater_is_better: whether the higher of two scores is the better one.
    """

    value_type = "int64"
    greater_is_better = True

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.value_type)
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation="",
            inputs_description="predictions and references: one number per row",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.name: float(self.score(np.asarray(predictions), np.asarray(references)))}

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        raise NotImplementedError


class Accuracy(_TaskMetric):
    """Share of rows whose predicted class is the label."""

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        return float(np.mean(predictions == references))


class _ClassMetric(_TaskMetric):
    """A score of one class, `positive`; a subclass gives `score(predictions, references, positive) -> float`."""

    def _compute(self, predictions: Any, references: Any, positive: int = 1) -> dict[str, float]:
        return {self.name: float(self.score(np.asarray(predictions), np.asarray(references), positive))}

    @staticmethod
    def score(predictions: Array, references: Array, positive: int = 1) -> float:
        raise NotImplementedError


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


class Precision(_ClassMetric):
    """Share of the rows predicted as positive that are; 0.0 when none is predicted."""

    @staticmethod
    def score(predictions: Array, references: Array, positive: int = 1) -> float:
        predicted = predictions == positive
        return _share(np.sum(predicted & (references == positive)), np.sum(predicted))


class Recall(_ClassMetric):
    """Share of the positive rows that are predicted as such; 0.0 when there is none."""

    @staticmethod
    def score(predictions: Array, references: Array, positive: int = 1) -> float:
        actual = references == positive
        return _share(np.sum((predictions == positive) & actual), np.sum(actual))


class F1(_ClassMetric):
    """Harmonic mean of precision and recall of the positive class, as GLUE scores MRPC and QQP."""

    @staticmethod
    def score(predictions: Array, references: Array, positive: int = 1) -> float:
        predicted, actual = predictions == positive, references == positive
        return _share(2 * np.sum(predicted & actual), np.sum(predicted) + np.sum(actual))


class MacroF1(_TaskMetric):
    """Mean over the classes that occur of each class's F1."""

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        classes = np.union1d(predictions, references)
        return float(np.mean([F1.score(predictions, references, c) for c in classes]))


class WeightedF1(_TaskMetric):
    """Mean over the classes of each class's F1, weighted by the rows that have the class."""

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        classes, rows = np.unique(references, return_counts=True)
        return float(np.average([F1.score(predictions, references, c) for c in classes], weights=rows))


class MicroF1(Accuracy):
    """F1 over all rows and classes together: with one class per row, the accuracy."""


class MatthewsCorrelation(_TaskMetric):
    """Matthews correlation for any number of classes (Gorodkin 2004)."""

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        classes = np.union1d(predictions, references)
        predicted = (predictions[:, None] == classes).astype(float)
        actual = (references[:, None] == classes).astype(float)
        predicted -= predicted.mean(axis=0)
        actual -= actual.mean(axis=0)
        spread = np.sqrt(np.sum(predicted**2) * np.sum(actual**2))
        return float(np.sum(predicted * actual) / spread) if spread else 0.0


def _is_constant(predictions: Array, references: Array) -> bool:
    """Whether one side is constant (or a single row), which leaves a correlation undefined."""
    return bool(np.ptp(predictions) == 0 or np.ptp(references) == 0)


class Pearson(_TaskMetric):
    """Pearson correlation of predictions and labels; 0.0 when either is constant."""

    value_type = "float64"

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        if _is_constant(predictions, references):
            return 0.0
        return float(stats.pearsonr(predictions, references).statistic)


class Spearman(_TaskMetric):
    """Spearman rank correlation of predictions and labels; 0.0 when either is constant."""

    value_type = "float64"

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        if _is_constant(predictions, references):
            return 0.0
        return float(stats.spearmanr(predictions, references).statistic)


class R2(_TaskMetric):
    """Share of the labels' variance that the predictions explain; 0.0 when the labels are constant."""

    value_type = "float64"

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        total = np.sum((references - references.mean()) ** 2)
        return float(1 - np.sum((references - predictions) ** 2) / total) if total else 0.0


class MeanSquaredError(_TaskMetric):
    """Mean of the squared difference of prediction and label, in the square of the label's unit."""

    value_type = "float64"
    greater_is_better = False

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        return float(np.mean((predictions - references) ** 2))


class MeanAbsoluteError(_TaskMetric):
    """Mean of the absolute difference of prediction and label, in the label's unit."""

    value_type = "float64"
    greater_is_better = False

    @staticmethod
    def score(predictions: Array, references: Array) -> float:
        return float(np.mean(np.abs(predictions - references)))


METRICS: dict[str, type[_TaskMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "macro_f1": MacroF1,
    "micro_f1": MicroF1,
    "weighted_f1": WeightedF1,
    "precision": Precision,
    "recall": Recall,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
    "r2": R2,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
}


CORRELATIONS = {"matthews_correlation", "pearson", "spearman"}


def make_metric(name: str) -> evaluate.Metric:
    """An instance of the metric `name` that keeps its rows in memory."""
    metric = METRICS[name](keep_in_memory=True)
    metric.info.metric_name = name
    return metric


def task_scores(spec: TaskSpec, predictions: Array, references: Array) -> dict[str, float]:
    """Every metric of one task; one warning says when a correlation among them is undefined.

    Args:
        spec: the task.
        predictions: class indices or values. *Shape:* (rows,)
        references: labels. *Shape:* (rows,)
    """
    undefined = [name for name in spec.metrics if name in CORRELATIONS]
    if undefined and _is_constant(predictions, references):
        side = "predictions" if np.ptp(predictions) == 0 else "labels"
        logger.warning("task %r: all %s are equal, so %s is reported as 0.0", spec.name, side, ", ".join(undefined))
    scores = {}
    for name in spec.metrics:
        options = {"positive": spec.positive_class} if name in OF_ONE_CLASS else {}
        result = make_metric(name).compute(predictions=predictions.tolist(), references=references.tolist(), **options)
        scores[name] = float(next(iter(result.values())))
    return scores


def average_score(specs: list[TaskSpec], metrics: dict[str, float], prefix: str) -> float:
    """Mean over the tasks of their main metric, a fraction; `metrics` has keys "<prefix>_<task>_<metric>"."""
    return float(np.mean([metrics[f"{prefix}_{spec.name}_{spec.main_metric}"] for spec in specs]))
