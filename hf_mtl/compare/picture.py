"""The differences of a comparison as a picture: one point per task and arm, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..training.pictures import new_figure, save_figure
from .results import Compared, scale_of


def draw_differences(compared: Sequence[Compared], path: Path) -> bool:
    """Write a PNG of the differences to the first arm, a panel for each task; without any, there is no picture.

    Without matplotlib there is none either, and a warning says so.

    Args:
        compared: from `differences`; one or more.
        path: of the picture.

    Returns:
        Whether there is a picture.
    """
    tasks = list(dict.fromkeys(spec.name for _, _, spec, _ in compared))
    arms = list(dict.fromkeys(arm for arm, _, _, _ in compared))
    figure = new_figure(path, 4.5 * len(tasks), 1.6 + 0.4 * len(arms))
    if figure is None:
        return False
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for arm, against, spec, difference in compared:
            if spec.name != task:
                continue
            place, (factor, unit) = -arms.index(arm), scale_of(spec.main_metric)
            if difference.low is not None and difference.high is not None:
                axes.plot([factor * difference.low, factor * difference.high], [place, place], color="C0", lw=2)
            axes.plot([factor * difference.mean], [place], "o", color="C0")
            axes.set(title=f"{task}: {spec.main_metric}", xlabel=f"{unit} above {against}, 95 % interval")
        axes.axvline(0, color="grey", ls=":", lw=1)
        axes.set(yticks=[-number for number in range(len(arms))], yticklabels=arms, ylim=(0.6 - len(arms), 0.6))
        axes.grid(alpha=0.3, axis="x")
    save_figure(figure, path)
    return True
