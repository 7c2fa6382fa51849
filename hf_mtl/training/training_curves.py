"""What a run leaves behind for people: curves as a picture, a closing table, prediction files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..tasks.kinds import kind_of
from ..tasks.metric_names import greater_is_better, shown_score
from ..tasks.spec import TaskSpec

matplotlib.use("Agg")
logging.getLogger("matplotlib").setLevel(logging.WARNING)


def series(history: Iterable[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one logged key."""
    points = [(row["step"], row[key]) for row in history if key in row]
    return [step for step, _ in points], [value for _, value in points]


def plot_curves(
    history: Sequence[Mapping[str, float]], tasks: Sequence[TaskSpec], marks: Mapping[float, str], path: Path
) -> None:
    """Write a PNG: each task's loss over the steps on the left, its scores on the right, but for errors in label units.

    Args:
        history: `trainer.state.log_history`.
        tasks: whose curves.
        marks: step -> words at a dotted line there, e.g. where layers were unfrozen.
        path: of the picture.
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for number, spec in enumerate(tasks):
        colour = f"C{number}"
        losses.plot(*series(history, f"loss_{spec.name}"), color=colour, label=spec.name)
        fractions = filter(greater_is_better, spec.metrics)
        for metric, marker in zip(fractions, "os^DvP*X", strict=False):
            steps, values = series(history, f"eval_{spec.name}_{metric}")
            scores.plot(steps, values, color=colour, marker=marker, label=f"{spec.name} {metric}")
        steps, values = series(history, f"train_{spec.name}_{spec.main_metric}")
        scores.plot(
            steps,
            values,
            color=colour,
            ls=":",
            marker=".",
            lw=1,
            label=f"{spec.name} {spec.main_metric} (training sample)",
        )
    losses.set(title="Training loss per task", xlabel="optimizer step", ylabel="mean loss", ylim=(0, None))
    scores.set(title="Scores per task", xlabel="optimizer step", ylabel="score")
    for axes in (losses, scores):
        for step, words in marks.items():
            axes.axvline(step, color="grey", ls=":", lw=1)
            place = {"xy": (step, 1), "xycoords": ("data", "axes fraction"), "xytext": (3, -3)}
            style = {"rotation": 90, "fontsize": 7, "color": "grey", "va": "top", "ha": "left"}
            axes.annotate(words, **place, textcoords="offset points", **style)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def closing_table(tasks: Sequence[TaskSpec], metrics: Mapping[str, float]) -> str:
    """A table of every task's scores on validation and on the training sample: per cent, errors in label units."""

    def cell(key: str, metric: str = "") -> str:
        return f"{shown_score(metric, metrics[key]) if key in metrics else '-':>12}"

    titles = {(spec.name, metric): spec.metric_title(metric) for spec in tasks for metric in spec.metrics}
    width = max([24, *(len(title) + 2 for title in titles.values())])
    lines = [f"{'task':<16}{'metric':<{width}}{'validation':>12}{'training':>12}"]
    for (task, metric), title in titles.items():
        cells = (cell(f"{prefix}_{task}_{metric}", metric) for prefix in ("eval", "train"))
        lines.append(f"{task:<16}{title:<{width}}{''.join(cells)}")
    lines.append(f"{'average':<16}{'of the main metrics':<{width}}{cell('eval_average')}{cell('train_average')}")
    rule = "-" * len(lines[0])
    return "\n".join([rule, lines[0], rule, *lines[1:-1], rule, lines[-1], rule])


def write_predictions(spec: TaskSpec, decoded: np.ndarray, path: Path) -> None:
    """Write a tsv with "index" and "prediction", such as a class name or a value, in the order of the rows.

    Args:
        spec: the task.
        decoded: what the head decoded. *Shape:* (rows, ...)
        path: of the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = kind_of(spec).write(spec, decoded)
    lines = ["index\tprediction", *(f"{index}\t{prediction}" for index, prediction in enumerate(written))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
