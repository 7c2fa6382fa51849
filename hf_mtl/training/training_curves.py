"""The curves of a run as a picture: losses and scores of every task over the steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..tasks.metric_names import greater_is_better
from ..tasks.spec import TaskSpec
from .pictures import new_figure, save_figure


def series(history: Iterable[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one logged key."""
    points = [(row["step"], row[key]) for row in history if key in row]
    return [step for step, _ in points], [value for _, value in points]


def plot_curves(
    history: Sequence[Mapping[str, float]], tasks: Sequence[TaskSpec], marks: Mapping[float, str], path: Path
) -> bool:
    """Write a PNG: each task's loss over the steps on the left, its scores on the right, but for errors in label units.

    Without matplotlib there is no picture, and a warning says so.

    Args:
        history: `trainer.state.log_history`.
        tasks: whose curves.
        marks: step -> words at a dotted line there, e.g. where layers were unfrozen.
        path: of the picture.

    Returns:
        Whether there is a picture.
    """
    figure = new_figure(path, 12, 4.5)
    if figure is None:
        return False
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
    save_figure(figure, path)
    return True
