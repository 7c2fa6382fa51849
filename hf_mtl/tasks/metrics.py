"""The metrics of the built-in kinds, and the scores of one task.

All are fractions of which more is better, but for the errors of regression, which are in the label's unit. Where a
score is undefined (a constant prediction has no correlation, and nothing predicted no precision) it is 0.0.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metric_names import METRICS, register_metric, score_options
from .spec import TaskSpec

logger = logging.getLogger(__name__)
Array = NDArray[Any]
VALUES = ("regression", "similarity")  # kinds


@register_metric("accuracy", kinds=["classification", "ordinal"])
def accuracy(predictions: Array, references: Array) -> float:
    """Share of rows whose predicted class is the label."""
    from sklearn.metrics import accuracy_score  # late: takes a second to import

    return float(accuracy_score(references, predictions))


@register_metric("f1", kinds=["classification"], of_one_class=True)
def f1(predictions: Array, references: Array, *, positive: int = 1) -> float:
    """Harmonic mean of precision and recall of the positive class, as GLUE scores MRPC and QQP."""
    from sklearn.metrics import f1_score  # late, as above

    return float(f1_score(references == positive, predictions == positive, pos_label=True, zero_division=0.0))


@register_metric("macro_f1", kinds=["classification", "multi_label"])
def macro_f1(predictions: Array, references: Array) -> float:
    """Mean of each class's F1 over the classes that occur, or of each label's over all labels of a row."""
    return _average_f1(predictions, references, "macro")


@register_metric("micro_f1", kinds=["classification", "multi_label"])
def micro_f1(predictions: Array, references: Array) -> float:
    """F1 over all rows and classes or labels together: with one class per row, the accuracy."""
    return _average_f1(predictions, references, "micro")


@register_metric("weighted_f1", kinds=["classification"])
def weighted_f1(predictions: Array, references: Array) -> float:
    """Mean over the classes of each class's F1, weighted by the rows that have the class."""
    return _average_f1(predictions, references, "weighted")


@register_metric("subset_accuracy", kinds=["multi_label"])
def subset_accuracy(predictions: Array, references: Array) -> float:
    """Share of rows whose labels are all predicted, and no other."""
    return accuracy(predictions, references)


@register_metric("average_precision", kinds=["multi_label"], of_scores=True)
def average_precision(scores: Array, references: Array) -> float:
    """Mean over the labels that occur of each label's average precision; 0.0 where none does, and NaN of NaN."""
    if np.isnan(scores).any():
        return math.nan
    from sklearn.metrics import average_precision_score  # late, as above

    pairs = [pair for pair in zip(references.T, scores.T, strict=True) if pair[0].any()]
    return float(np.mean([average_precision_score(*pair) for pair in pairs])) if pairs else 0.0


@register_metric("precision", kinds=["classification"], of_one_class=True)
def precision(predictions: Array, references: Array, *, positive: int = 1) -> float:
    """Share of the rows predicted as positive that are; 0.0 when none is predicted."""
    from sklearn.metrics import precision_score  # late, as above

    return float(precision_score(references == positive, predictions == positive, pos_label=True, zero_division=0.0))


@register_metric("recall", kinds=["classification"], of_one_class=True)
def recall(predictions: Array, references: Array, *, positive: int = 1) -> float:
    """Share of the positive rows that are predicted as such; 0.0 when there is none."""
    from sklearn.metrics import recall_score  # late, as above

    return float(recall_score(references == positive, predictions == positive, pos_label=True, zero_division=0.0))


@register_metric("matthews_correlation", kinds=["classification"])
def matthews_correlation(predictions: Array, references: Array) -> float:
    """Matthews correlation for any number of classes (Gorodkin 2004); 0.0 when either side is constant."""
    from sklearn.metrics import matthews_corrcoef  # late, as above

    return 0.0 if _is_constant(predictions, references) else float(matthews_corrcoef(references, predictions))


@register_metric("pearson", kinds=VALUES)
def pearson(predictions: Array, references: Array) -> float:
    """Pearson correlation of predictions and labels; 0.0 when either is constant."""
    from scipy import stats  # late: takes a second to import

    constant = _is_constant(predictions, references)
    return 0.0 if constant else float(stats.pearsonr(predictions, references).statistic)


@register_metric("spearman", kinds=VALUES)
def spearman(predictions: Array, references: Array) -> float:
    """Spearman rank correlation of predictions and labels; 0.0 when either is constant."""
    from scipy import stats  # late: takes a second to import

    constant = _is_constant(predictions, references)
    return 0.0 if constant else float(stats.spearmanr(predictions, references).statistic)


@register_metric("r2", kinds=VALUES)
def r2(predictions: Array, references: Array) -> float:
    """Share of the labels' variance that the predictions explain; 0.0 when the labels are constant."""
    total = np.sum((references - references.mean()) ** 2)
    return float(1 - np.sum((references - predictions) ** 2) / total) if total else 0.0


@register_metric("mse", kinds=VALUES, greater_is_better=False, unit="squared label unit")
def mean_squared_error(predictions: Array, references: Array) -> float:
    """Mean of the squared difference of prediction and label, in the square of the label's unit."""
    return float(np.mean((predictions - references) ** 2))


@register_metric("mae", kinds=[*VALUES, "ordinal"], greater_is_better=False, unit="label unit")
def mean_absolute_error(predictions: Array, references: Array) -> float:
    """Mean of the absolute difference of prediction and label, in the label's unit; of ordered classes, in steps."""
    return float(np.mean(np.abs(predictions - references)))


CORRELATIONS = {"matthews_correlation", "pearson", "spearman", "quadratic_kappa"}


def _average_f1(predictions: Array, references: Array, average: str) -> float:
    from sklearn.metrics import f1_score  # late, as above

    if references.ndim == 2 and references.shape[1] == 1:  # which scikit-learn takes for two classes
        return f1(predictions.ravel(), references.ravel())
    return float(f1_score(references, predictions, average=average, zero_division=0.0))


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
        options = score_options(name, spec.positive_class, spec.names)
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
