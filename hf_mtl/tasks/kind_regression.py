"""Regression: every row has a value in the range that the task declares."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..model.head_regression import RegressionHead
from ..model.heads import Head
from .cells import number_of
from .found_labels import FoundLabels, found_range
from .kinds import register_kind
from .label_column import LabelColumn, read_values
from .metrics import pearson
from .number_kind import NumberKind
from .spec import TaskSpec


@register_kind("regression")
class Regression(NumberKind):
    """Labels are values."""

    head: ClassVar[type[Head]] = RegressionHead
    metrics: ClassVar[tuple[str, ...]] = (pearson.__name__,)
    auto = ("label_range",)
    dtype = np.float64
    by_index = "the data has classes, not values"

    def read_column(self, spec: TaskSpec, rows: Dataset) -> LabelColumn:
        """The labels as they were written, and as values, unchecked."""
        return read_values(rows, spec.label_column, _range(spec))

    def find_labels(self, spec: TaskSpec, rows: Dataset) -> FoundLabels:
        """The lowest and the highest value."""
        return found_range(rows, spec.label_column)

    def admits(self, spec: TaskSpec, label: float) -> bool:
        """Whether a number is in the range."""
        low, high = _range(spec)
        return low <= label <= high

    def wanted(self, spec: TaskSpec) -> str:
        """The range."""
        return f"a number in {list(_range(spec))}"

    def wanted_numbers(self, spec: TaskSpec) -> str:
        """The range."""
        return self.wanted(spec)

    def hint(self, cell: Any) -> str:
        """What to do about a comma, which is a decimal mark to some and a thousands' mark to others."""
        if not isinstance(cell, str) or "," not in cell or number_of(cell.replace(",", "")) is None:
            return ""
        return "; ',' is not read: write '.' before decimals, and nothing between thousands"

    def write(self, spec: TaskSpec, predictions: NDArray[Any]) -> list[str]:
        """The values."""
        return [repr(float(value)) for value in predictions]

    def describe(self, spec: TaskSpec, labels: NDArray[Any]) -> dict[str, Any]:
        """The lowest, the mean and the highest value."""
        return {"lowest": float(labels.min()), "mean": float(labels.mean()), "highest": float(labels.max())}


def _range(spec: TaskSpec) -> tuple[float, float]:
    assert isinstance(spec.label_range, tuple)  # the head has checked it
    return spec.label_range
