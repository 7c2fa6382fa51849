"""`compare.md`: what the results of a comparison say, in tables and in a sentence for each arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..tasks.metric_names import shown_score
from ..tasks.spec import TaskSpec
from .results import Compared, Results, differences, scale_of
from .runs import Arm
from .statistics import LEAST_SEEDS, MOST_SEEDS, UNDECIDED, Difference, standard_deviation

REPORT = "compare.md"


def report(title: str, results: Results, arms: Sequence[Arm]) -> str:
    """The text of compare.md.

    Args:
        title: what was compared.
        results: so far.
        arms: in their order; the first is what the others are compared with.
    """
    compared = differences(results, arms)
    lines = [
        f"# {title}",
        "",
        "Scores on the validation rows: mean ± standard deviation over the seeds (their number).",
    ]
    lines += ["", *_score_table(results, arms, "eval")]
    tested = _score_table(results, arms, "test")
    if len(tested) > 2:  # lines of a header
        lines += ["", "On the test rows:", "", *tested]
    lines += ["", f"## Against {arms[0].name}", ""]
    lines += [_ABOUT.format(arms[0].name), "", *_difference_table(compared)]
    lines += ["", "## In words", "", *(f"- {sentence(arm, results, compared)}" for arm in arms)]
    return "\n".join(lines) + "\n"


_ABOUT = (
    f"The mean of the differences to {{}} of the same seeds, with Student's 95 % interval from {LEAST_SEEDS} seeds on. "
    "A difference whose interval holds 0 is undecided. Every seed that was run counts."
)


def _score_table(results: Results, arms: Sequence[Arm], prefix: str) -> list[str]:
    """A line for each arm that has scores, below two of the header."""
    columns = list(dict.fromkeys((spec.name, metric) for arm in arms for spec in arm.tasks for metric in spec.metrics))
    rows = []
    for arm in arms:
        cells = [
            _cell(metric, list(results.scores(arm.name, task, metric, prefix).values())) for task, metric in columns
        ]
        if any(cell != "-" for cell in cells) or prefix == "eval":
            rows.append([arm.name, *cells])
    return _table(["arm", *(f"{task} {metric}" for task, metric in columns)], rows)


def _cell(metric: str, scores: Sequence[float]) -> str:
    if not scores:
        return "-"
    deviation = standard_deviation(scores)
    spread = "" if deviation is None else f" ± {shown_score(metric, deviation)}"
    return f"{shown_score(metric, _mean(scores))}{spread} ({len(scores)})"


def _difference_table(compared: Sequence[Compared]) -> list[str]:
    rows = []
    for arm, _, spec, difference in compared:
        factor, unit = scale_of(spec.main_metric)
        interval = "-" if difference.low is None else _interval(difference, factor)
        mean = f"{factor * difference.mean:+.2f} {unit}"
        rows.append([arm, spec.name, spec.main_metric, mean, interval, str(difference.seeds), difference.verdict])
    return _table(["arm", "task", "metric", "difference", "95 % interval", "seeds", "verdict"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _interval(difference: Difference, factor: float) -> str:
    assert difference.low is not None and difference.high is not None
    return f"{factor * difference.low:+.2f} to {factor * difference.high:+.2f}"


def sentence(arm: Arm, results: Results, compared: Sequence[Compared]) -> str:
    """What is known of an arm: scores, their spread, differences to the first arm, time and memory."""
    parts = [_scores_in_words(spec, results.scores(arm.name, spec.name, spec.main_metric)) for spec in arm.tasks]
    if not any(parts):
        return f"{arm.name} has no result yet."
    parts += [_difference_in_words(*each[1:]) for each in compared if each[0] == arm.name]
    return f"{arm.name}: {'; '.join(filter(None, [*parts, _cost(arm, results)]))}."


def _scores_in_words(spec: TaskSpec, scores: Mapping[int, float]) -> str:
    if not scores:
        return ""
    values, metric = list(scores.values()), spec.main_metric
    deviation = standard_deviation(values)
    spread = "" if deviation is None else f" with a standard deviation of {shown_score(metric, deviation)}"
    return f"{spec.name} {metric} is {shown_score(metric, _mean(values))}{spread} over {_count(len(values), 'seed')}"


def _difference_in_words(against: str, spec: TaskSpec, difference: Difference) -> str:
    factor, unit = scale_of(spec.main_metric)
    if not math.isfinite(difference.mean):
        return f"{spec.name} cannot be compared with {against}, as a score is not finite"
    side = "above" if difference.mean >= 0 else "below"
    known = f"{spec.name} is {abs(factor * difference.mean):.2f} {unit} {side} {against}"
    if difference.low is not None:
        known += f" (95 % interval {_interval(difference, factor)})"
    if difference.verdict != UNDECIDED:
        return f"{known}, which is {difference.verdict}"
    return f"{known}: no difference can be told with {_count(difference.seeds, 'seed')}; {_needed(difference)}"


def _needed(difference: Difference) -> str:
    """How many seeds it would take."""
    if difference.deviation is None:
        return f"it takes {LEAST_SEEDS} at least"
    if difference.seeds_needed is None:
        return f"it would take more than {MOST_SEEDS:,}"
    return f"it would take about {difference.seeds_needed:,}"


def _cost(arm: Arm, results: Results) -> str:
    """Wall time of a seed, and the most memory of a process."""
    runs = [entry for entry in results.runs if entry["arm"] == arm.name]
    by_seed: dict[int, float] = {}
    for entry in runs:
        by_seed[entry["seed"]] = by_seed.get(entry["seed"], 0.0) + entry["seconds"]
    of_all = [total for seed, total in by_seed.items() if _has_all(arm, [e for e in runs if e["seed"] == seed])]
    memory = [entry["memory"] for entry in runs if entry.get("memory")]
    parts = [f"a seed takes {_duration(_mean(of_all))}"] if of_all else []
    parts += [f"{max(memory) / 2**30:.2f} GiB of memory at most"] if memory else []
    return " and ".join(parts)


def _has_all(arm: Arm, runs: Sequence[Mapping[str, object]]) -> bool:
    """Whether all runs of one seed are through."""
    return {run["task"] for run in runs} >= set(arm.settings)


def _duration(seconds: float) -> str:
    """A time in words."""
    units: list[tuple[float, Callable[[float], str]]] = [
        (120, lambda s: f"{s:.0f} s"),
        (7200, lambda s: f"{s / 60:.0f} min"),
        (math.inf, lambda s: f"{s / 3600:.1f} h"),
    ]
    return next(form(seconds) for limit, form in units if seconds < limit)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
