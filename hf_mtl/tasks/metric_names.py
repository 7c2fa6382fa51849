"""Every metric by name: its function, the kinds of task that it scores, and how its values are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import InputError, unknown_name_error
from ..validation import check_unregistered

Score = TypeVar("Score", bound=Callable[..., float])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of a task's predictions.

    Attributes:
        score: `(predictions, references) -> float`, arrays of the same rows; with `of_one_class`, it also gets the
            keyword `positive`, the class's index.
        kinds: of the tasks that it scores.
        greater_is_better: whether the higher of two scores is the better one.
        unit: of a score that is no fraction, such as "label unit"; "" for a fraction.
        of_one_class: whether it is the score of one of two classes, the positive one.
        of_scores: whether its predictions are what the head's `kept_scores` gives, such as probabilities.
        of_names: whether it gets the keyword `names`, the task's labels.
    """

    score: Callable[..., float]
    kinds: tuple[str, ...]
    greater_is_better: bool = True
    unit: str = ""
    of_one_class: bool = False
    of_scores: bool = False
    of_names: bool = False


METRICS: dict[str, Metric] = {}
FIRST_METRICS: dict[str, tuple[str, ...]] = {}  # kind -> the metrics that it names itself, the default first


def register_metric(
    name: str,
    *,
    kinds: Sequence[str],
    greater_is_better: bool = True,
    unit: str = "",
    of_one_class: bool = False,
    of_scores: bool = False,
    of_names: bool = False,
) -> Callable[[Score], Score]:
    """Add a metric under a name that tasks of some kinds may list in `metrics`.

        @register_metric("exact_match", kinds=["label_set"])
        def exact_match(predictions, references):
            return float((predictions == references).all(axis=1).mean())

    Args:
        name: of the metric, in task files, logs and results.
        kinds: of the tasks that may list it.
        greater_is_better: whether the higher of two scores is the better one.
        unit: of the score; a fraction unless given.
        of_one_class: whether it is taken for the class that the task's `positive_label` names.
        of_scores: whether its predictions are scores, such as probabilities, and not answers.
        of_names: whether it gets the keyword `names`, the task's labels.

    Raises:
        InputError: for a name that another metric has.
    """

    def register(score: Score) -> Score:
        check_unregistered("metric", name, METRICS[name].score if name in METRICS else None, score)
        METRICS[name] = Metric(
            score=score,
            kinds=tuple(kinds),
            greater_is_better=greater_is_better,
            unit=unit,
            of_one_class=of_one_class,
            of_scores=of_scores,
            of_names=of_names,
        )
        return score

    return register


def set_first_metrics(kind: str, names: Sequence[str]) -> None:
    """Make these the metrics that a kind's tasks may list before any other; the first is the default."""
    FIRST_METRICS[kind] = tuple(names)


def metric_names(kind: str) -> tuple[str, ...]:
    """The metrics of a kind's tasks, the default first.

    Raises:
        InputError: for a kind without any, or with one that is not registered.
    """
    names = (*FIRST_METRICS.get(kind, ()), *(name for name, metric in METRICS.items() if kind in metric.kinds))
    if not names:
        raise InputError(f"kind {kind!r} has no metric; add one with register_metric(name, kinds=[{kind!r}])")
    for name in names:
        if name not in METRICS:
            raise unknown_name_error(f"metric of kind {kind!r}:", name, METRICS)
    return tuple(dict.fromkeys(names))


def is_of_one_class(metric: str) -> bool:
    """True for a metric of the positive one of two classes."""
    return metric in METRICS and METRICS[metric].of_one_class


def unit_of(metric: str) -> str:
    """The unit of a metric that is no fraction; else ""."""
    return METRICS[metric].unit if metric in METRICS else ""


def greater_is_better(metric: str) -> bool:
    """Whether a higher value of a metric, or of "loss", is the better one."""
    return metric != "loss" and (metric not in METRICS or METRICS[metric].greater_is_better)


def shown_score(metric: str, value: float) -> str:
    """A score for people: a fraction in per cent, an error in the unit of the label or its square."""
    return f"{value:.4g}" if unit_of(metric) else f"{100 * value:.2f}"


def check_metrics(task: str, kind: str, labels: Sequence[str] | None, metrics: Sequence[str], main_metric: str) -> None:
    """Raise InputError for a metric that the task cannot be scored by, or that cannot be the main one."""
    known = metric_names(kind)
    for metric in (*metrics, main_metric):
        if metric not in known:
            error = unknown_name_error(f"metric for task {task!r} ({kind}):", metric, known)
            raise InputError(f"{error}; one of a file of your own: --plugin FILE.py")
        if is_of_one_class(metric) and labels is not None and len(labels) > 2:
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


def score_options(metric: str, positive_class: int | None, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The keywords that a metric's function takes."""
    options: dict[str, Any] = {"positive": positive_class} if is_of_one_class(metric) else {}
    return {**options, "names": names} if metric in METRICS and METRICS[metric].of_names else options
