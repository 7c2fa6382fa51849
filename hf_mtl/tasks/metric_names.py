"""The names of the metrics, and what can be told of them without importing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InputError, unknown_name_error

METRIC_NAMES = {
    "classification": (
        "accuracy",
        "f1",
        "macro_f1",
        "micro_f1",
        "weighted_f1",
        "precision",
        "recall",
        "matthews_correlation",
    ),
    "regression": ("pearson", "spearman", "r2", "mse", "mae"),
}
OF_ONE_CLASS = ("f1", "precision", "recall")  # of the positive one
ERROR_UNITS = {"mse": "squared label unit", "mae": "label unit"}  # less is better, and they are no fractions


def greater_is_better(metric: str) -> bool:
    """Whether a higher value of a metric, or of "loss", is the better one."""
    return metric not in ERROR_UNITS and metric != "loss"


def shown_score(metric: str, value: float) -> str:
    """A score for people: a fraction in per cent, an error in the unit of the label or its square."""
    return f"{value:.4g}" if metric in ERROR_UNITS else f"{100 * value:.2f}"


def check_metrics(task: str, kind: str, labels: Sequence[str] | None, metrics: Sequence[str], main_metric: str) -> None:
    """Raise InputError for a metric that the task cannot be scored by, or that cannot be the main one."""
    known = METRIC_NAMES[kind]
    for metric in (*metrics, main_metric):
        if metric not in known:
            raise unknown_name_error(f"metric for task {task!r} ({kind}):", metric, known)
        if metric in OF_ONE_CLASS and labels is not None and len(labels) > 2:
            raise InputError(
                f"task {task!r}: {metric} is that of one class, and there are {len(labels)}; wanted macro_f1, micro_f1 "
                "or weighted_f1"
            )
    if main_metric not in metrics:
        raise InputError(f"task {task!r}: main_metric {main_metric!r} is not among metrics {tuple(metrics)}")
    if not greater_is_better(main_metric):
        raise InputError(
            f"task {task!r}: of the main metric, {main_metric}, less is better, and eval_average is a mean in which "
            f"more is; list another first, as in metrics: [{known[0]}, {main_metric}]"
        )


def check_names_differ(metrics: Mapping[str, Sequence[str]]) -> None:
    """Raise InputError where two tasks' scores have one name, as f1 of "a_macro" and macro_f1 of "a" have.

    Args:
        metrics: task -> its metrics.
    """
    owners: dict[str, str] = {}
    for task, names in metrics.items():
        for metric in (*names, "loss"):
            owner = owners.setdefault(f"{task}_{metric}", task)
            if owner != task:
                raise InputError(
                    f"tasks {owner!r} and {task!r} both have a score called '{task}_{metric}'; rename one of them"
                )
