"""Classification: every row has one of the classes that the task declares."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from ..model.head_classification import ClassificationHead
from .found_labels import FoundLabels, found_names
from .kinds import register_kind
from .label_column import LabelColumn, different_cells, read_classes
from .label_sets import wanted_names
from .metrics import accuracy
from .number_kind import NumberKind
from .row_errors import RowErrors, raise_first, told
from .spec import TaskSpec


@register_kind("classification")
class Classification(NumberKind):
    """Labels are class indices, written as names or indices."""

    head = ClassificationHead
    metrics = (accuracy.__name__,)
    auto: ClassVar[tuple[str, ...]] = ("labels",)
    dtype = np.int64
    by_index = "none of the data's classes is declared"

    def read_column(self, spec: TaskSpec, rows: Dataset) -> LabelColumn:
        """The labels as they were written, and as indices, unchecked."""
        return read_classes(rows, spec.label_column, spec.names)

    def find_labels(self, spec: TaskSpec, rows: Dataset) -> FoundLabels:
        """The names in the label column."""
        return found_names(rows.features[spec.label_column], different_cells(rows, spec.label_column))

    def admits(self, spec: TaskSpec, label: float) -> bool:
        """Whether a number is the index of a class."""
        return float(label).is_integer() and 0 <= label < len(spec.names)

    def strata(self, spec: TaskSpec, rows: Dataset) -> NDArray[np.int64]:
        """The classes, or -1 where a row has none."""
        values, bad = self._checked(spec, rows, self.read_column(spec, rows), "train")
        raise_first(spec, rows, "train", bad)
        return np.nan_to_num(values, nan=-1).astype(np.int64)

    def wanted(self, spec: TaskSpec) -> str:
        """The names, or the first of many."""
        return f"one of {wanted_names(spec.names)}"

    def wanted_numbers(self, spec: TaskSpec) -> str:
        """The indices, with the names."""
        return f"one of {', '.join(f'{index} ({name})' for index, name in enumerate(spec.names))}"

    def check_column(
        self, spec: TaskSpec, rows: Dataset, split: str, values: NDArray[np.float64], bad: RowErrors
    ) -> None:
        """Raise InputError where the indices count from 1."""
        num_classes = len(spec.names)
        numbers = {value for value in np.unique(values).tolist() if value != -1 and not math.isnan(value)}
        if {1, num_classes} <= numbers <= set(range(1, num_classes + 1)):
            last = int(np.argmax(values == num_classes))
            raise InputError(
                f"{told(spec, rows, split, last, bad)}; the labels seem to count from 1: write 0 "
                f"to {num_classes - 1}, or the names"
            )

    def write(self, spec: TaskSpec, predictions: NDArray[Any]) -> list[str]:
        """The names of the predicted classes."""
        names = spec.names
        return [names[int(index)] for index in predictions]

    def describe(self, spec: TaskSpec, labels: NDArray[Any]) -> dict[str, Any]:
        """Rows per class."""
        counts = np.bincount(labels.astype(np.int64), minlength=len(spec.names))
        return dict(zip(spec.names, counts.tolist(), strict=True))
