"""Figures that need no screen, where matplotlib is installed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def new_figure(path: Path, width: float, height: float) -> Any:
    """A figure for a file, in inches; None without matplotlib, and a warning says so."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: slow to import, and not needed to train
        from matplotlib.figure import Figure
    except ImportError as error:
        logger.warning("%s is not drawn: %s; pip install matplotlib", path, error)
        return None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # of its own: pyplot's backend stays what the user chose
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, which has the old content or the new one whenever one looks."""
    unfinished = path.with_name(f"{path.name}.tmp")
    figure.savefig(unfinished, dpi=120, format="png")
    unfinished.replace(path)
