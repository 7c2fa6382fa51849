"""The metrics of classification and regression, and the scores of one task.

All are fractions of which more is better, but for the errors of regression, which are in the label's unit. Where a
score is undefined (a constant prediction has no correlation, and nothing predicted no precision) it is 0.0.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metric_names import METRICS, register_metric, score_options
from .spec import TaskSpec

logger = logging.getLogger(__name__)
Array = NDArray[Any]


@register_metric("accuracy", kinds=["classification"])
def accuracy(predictions: Array, references: Array) -> float:
    """Share of rows whose predicted class is the label."""
    return float(np.mean(predictions == references))


@register_metric("f1", kinds=["classification"], of_one_class=True)
def f1(predictions: Array, references: Array, *, positive: int = 1) -> float:
    """Harmonic mean of precision and recall of the positive class, as GLUE scores MRPC and QQP."""
    predicted, actual = predictions == positive, references == positive
    return _share(2 * np.sum(predicted & actual), np.sum(predicted) + np.sum(actual))


@register_metric("macro_f1", kinds=["classification"])
def macro_f1(predictions: Array, references: Array) -> float:
    """Mean over the classes that occur of each class's F1."""
    classes = np.union1d(predictions, references)
    return float(np.mean([f1(predictions, references, positive=c) for c in classes]))


@register_metric("micro_f1", kinds=["classification"])
def micro_f1(predictions: Array, references: Array) -> float:
    """F1 over all rows and classes together: with one class per row, the accuracy."""
    return accuracy(predictions, references)


@register_metric("weighted_f1", kinds=["classification"])
def weighted_f1(predictions: Array, references: Array) -> float:
    """Mean over the classes of each class's F1, weighted by the rows that have the class."""
    classes, rows = np.unique(references, return_counts=True)
    return float(np.average([f1(predictions, references, positive=c) for c in classes], weights=rows))


@register_metric("precision", kinds=["classification"], of_one_class=True)
def precision(predictions: Array, references: Array, *, positive: int = 1) -> float:
    """Share of the rows predicted as positive that are; 0.0 when none is predicted."""
    predicted = predictions == positive
    return _share(np.sum(predicted & (references == positive)), np.sum(predicted))


@register_metric("recall", kinds=["classification"], of_one_class=True)
def recall(predictions: Array, references: Array, *, positive: int = 1) -> float:
    """Share of the positive rows that are predicted as such; 0.0 when there is none."""
    actual = references == positive
    return _share(np.sum((predictions == positive) & actual), np.sum(actual))


@register_metric("matthews_correlation", kinds=["classification"])
def matthews_correlation(predictions: Array, references: Array) -> float:
    """Matthews correlation for any number of classes (Gorodkin 2004)."""
    classes = np.union1d(predictions, references)
    predicted = (predictions[:, None] == classes).astype(float)
    actual = (references[:, None] == classes).astype(float)
    predicted -= predicted.mean(axis=0)
    actual -= actual.mean(axis=0)
    spread = np.sqrt(np.sum(predicted**2) * np.sum(actual**2))
    return float(np.sum(predicted * actual) / spread) if spread else 0.0


@register_metric("pearson", kinds=["regression"])
def pearson(predictions: Array, references: Array) -> float:
    """Pearson correlation of predictions and labels; 0.0 when either is constant."""
    from scipy import stats  # late: takes a second to import

    constant = _is_constant(predictions, references)
    return 0.0 if constant else float(stats.pearsonr(predictions, references).statistic)


@register_metric("spearman", kinds=["regression"])
def spearman(predictions: Array, references: Array) -> float:
    """Spearman rank correlation of predictions and labels; 0.0 when either is constant."""
    from scipy import stats  # late: takes a second to import

    constant = _is_constant(predictions, references)
    return 0.0 if constant else float(stats.spearmanr(predictions, references).statistic)


@register_metric("r2", kinds=["regression"])
def r2(predictions: Array, references: Array) -> float:
    """Share of the labels' variance that the predictions explain; 0.0 when the labels are constant."""
    total = np.sum((references - references.mean()) ** 2)
    return float(1 - np.sum((references - predictions) ** 2) / total) if total else 0.0


@register_metric("mse", kinds=["regression"], greater_is_better=False, unit="squared label unit")
def mean_squared_error(predictions: Array, references: Array) -> float:
    """Mean of the squared difference of prediction and label, in the square of the label's unit."""
    return float(np.mean((predictions - references) ** 2))


@register_metric("mae", kinds=["regression"], greater_is_better=False, unit="label unit")
def mean_absolute_error(predictions: Array, references: Array) -> float:
    """Mean of the absolute difference of prediction and label, in the label's unit."""
    return float(np.mean(np.abs(predictions - references)))


CORRELATIONS = {"matthews_correlation", "pearson", "spearman"}


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def _is_constant(predictions: Array, references: Array) -> bool:
    """Whether one side is constant (or a single row), which leaves a correlation undefined."""
    return bool(np.ptp(predictions) == 0 or np.ptp(references) == 0)


def make_metric(name: str, example: Array | None = None) -> Any:
    """The metric `name` as an `evaluate.Metric` that needs no download and keeps its rows in memory.

    Args:
        name: a key of `METRICS`.
        example: a row or more of the dtype and shape that it takes; a number per row unless given.
    """
    from .evaluate_metric import TaskMetric  # late: evaluate takes a second to import

    return TaskMetric(name, np.zeros(1) if example is None else example)


def task_scores(
    spec: TaskSpec, predictions: Array, references: Array, scores_of_rows: Array | None = None
) -> dict[str, float]:
    """Every metric of one task; one warning says when a correlation among them is undefined.

    Args:
        spec: the task.
        predictions: what the head decoded, such as class indices or values. *Shape:* (rows, ...)
        references: labels. *Shape:* (rows, ...)
        scores_of_rows: what metrics of scores take for predictions. *Shape:* (rows, ...)
    """
    undefined = [name for name in spec.metrics if name in CORRELATIONS]
    if undefined and _is_constant(predictions, references):
        side = "predictions" if np.ptp(predictions) == 0 else "labels"
        logger.warning("task %r: all %s are equal, so %s is reported as 0.0", spec.name, side, ", ".join(undefined))
    scores = {}
    for name in spec.metrics:
        given = scores_of_rows if METRICS[name].of_scores else predictions
        assert given is not None  # a kind's head gives what its metrics take
        options = score_options(name, spec.positive_class, spec.labels)
        if references.ndim > 1:  # lists of lists would take many times the memory
            scores[name] = float(METRICS[name].score(given, references, **options))
            continue
        metric = make_metric(name, np.zeros(references.shape, dtype=np.result_type(given, references)))
        result = metric.compute(predictions=given.tolist(), references=references.tolist(), **options)
        scores[name] = float(next(iter(result.values())))
    return scores


def average_score(specs: list[TaskSpec], metrics: dict[str, float], prefix: str) -> float:
    """Mean over the tasks of their main metric, a fraction; `metrics` has keys "<prefix>_<task>_<metric>"."""
    return float(np.mean([metrics[f"{prefix}_{spec.name}_{spec.main_metric}"] for spec in specs]))
