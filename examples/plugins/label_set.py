"""Sets of labels: every row has any number of labels.

    accelerate launch run_glue_mtl.py --plugin examples/plugins/label_set.py --task_set my_tasks.yaml ...
    hf-mtl predict --plugin examples/plugins/label_set.py --model out --text "A long and funny film."

A task of this kind declares `kind: label_set` and `labels: [...]`; its label column holds lists of names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from label_set_head import LabelSetHead
from numpy.typing import NDArray

from hf_mtl import InputError, TaskKind, TaskSpec, register_kind, register_metric
from hf_mtl.tasks.row_errors import RowErrors, raise_first

Array = NDArray[Any]


@register_metric("label_f1", kinds=["label_set"])
def label_f1(predictions: Array, references: Array) -> float:
    """F1 over all rows and labels together; 0.0 where nothing is predicted and nothing is there."""
    both = np.sum((predictions == 1) & (references == 1))
    total = np.sum(predictions == 1) + np.sum(references == 1)
    return float(2 * both / total) if total else 0.0


@register_metric("exact_match", kinds=["label_set"])
def exact_match(predictions: Array, references: Array) -> float:
    """Share of rows whose labels are all predicted, and no other."""
    return float(np.mean((predictions == references).all(axis=1)))


@register_kind("label_set")
class LabelSet(TaskKind):
    """Labels are 0 or 1 for each declared name. *Shape:* (rows, labels)"""

    head = LabelSetHead
    metrics = ("label_f1",)

    def read_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> Array:
        """1 for every name in a row's list; a row of "test" without a list has NaN."""
        raise_first(spec, rows, split, self.bad_labels(spec, rows, split))
        names = spec.labels or ()
        cells = rows[spec.label_column] if spec.label_column in rows.column_names else [None] * len(rows)
        unknown = [np.nan] * len(names)
        return np.array([unknown if cell is None else [float(name in cell) for name in names] for cell in cells])

    def bad_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> RowErrors:
        """Row -> what is wrong with its list."""
        wanted = f" is not a list of names from {list(spec.labels or ())}"
        cells = rows[spec.label_column] if spec.label_column in rows.column_names else ()
        return {
            row: (f"label {cell!r}", wanted)
            for row, cell in enumerate(cells)
            if not (_are_names(cell, spec) or (cell is None and split == "test"))
        }

    def check_labels(self, spec: TaskSpec, labels: Any, where: str, *, labelled: bool) -> Array | None:
        """The labels of rows that are handed to the trainer: 0 or 1 for each name, in every row."""
        found = super().check_labels(spec, labels, where, labelled=labelled)
        rows = labels.to_pylist() if found is None else found.tolist()
        for number, row in enumerate(rows):
            if not labelled and np.isnan(row).all():  # of "test"
                continue
            if len(row) != len(spec.labels or ()) or not set(row) <= {0, 1}:
                wanted = f"wanted 0 or 1 for each of {spec.labels}"
                raise InputError(f"{where}: label {row} in row {number} (the first row is 0), {wanted}")
        return found

    def write(self, spec: TaskSpec, predictions: Array) -> list[str]:
        """The names of the predicted labels, with commas between."""
        names = spec.labels or ()
        return [", ".join(name for name, there in zip(names, row, strict=True) if there) for row in predictions]

    def describe(self, spec: TaskSpec, labels: Array) -> dict[str, Any]:
        """Rows per label."""
        return {name: int(rows) for name, rows in zip(spec.labels or (), labels.sum(axis=0), strict=True)}


def _are_names(cell: Any, spec: TaskSpec) -> bool:
    return isinstance(cell, list) and all(name in (spec.labels or ()) for name in cell)
