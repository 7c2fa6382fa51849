"""What classification and regression share: a label is one number, a class index or a value."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from .cells import is_missing, number_of, shown
from .column_slices import AT_ONCE
from .kinds import TaskKind
from .label_column import LabelColumn
from .row_errors import SKIP_MISSING, RowErrors, raise_first
from .spec import TaskSpec

logger = logging.getLogger(__name__)


class NumberKind(TaskKind):
    """A kind whose rows have a number each. A subclass says how it is written, and which numbers are labels.

    In "test", rows may lack a label: no column, null, NaN, a text of `cells.MISSING`, or -1, where these are no label
    of the task. They come back as NaN, and all labels as floats.

    Attributes:
        dtype: of labels where every row has one.
        by_index: why indices are told of where the data's own classes say nothing.
    """

    dtype: ClassVar[type[np.number[Any]]]
    by_index: ClassVar[str]

    def read_column(self, spec: TaskSpec, rows: Dataset) -> LabelColumn:
        """The labels as they were written, and as numbers, unchecked."""
        raise NotImplementedError

    def admits(self, spec: TaskSpec, label: float) -> bool:
        """Whether a number is a label that the task declares."""
        raise NotImplementedError

    def wanted(self, spec: TaskSpec) -> str:
        """The labels that the raw data may have, for messages."""
        raise NotImplementedError

    def wanted_numbers(self, spec: TaskSpec) -> str:
        """The numbers that labels of tokenised rows may be, for messages."""
        raise NotImplementedError

    def hint(self, cell: Any) -> str:
        """What to do about a cell that is no label, or nothing."""
        return ""

    def check_column(
        self, spec: TaskSpec, rows: Dataset, split: str, values: NDArray[np.float64], bad: RowErrors
    ) -> None:
        """Raise InputError where not some labels are wrong but all."""

    def read_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
        """See `TaskKind`; says what numbers mean. *Shape:* (rows,)"""
        unlabelled = split == "test"
        if unlabelled and spec.label_column not in rows.column_names:
            return np.full(len(rows), np.nan)
        column = self.read_column(spec, rows)
        values, bad = self._checked(spec, rows, column, split)
        raise_first(spec, rows, split, bad)
        self._say_what_indices_mean(spec, column, split)
        return values if unlabelled else values.astype(self.dtype, copy=False)

    def missing_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> NDArray[np.bool_]:
        """Which rows have nothing, or -1, where neither is a label of the task. *Shape:* (rows,)"""
        column, missing = self.read_column(spec, rows), np.zeros(len(rows), dtype=bool)
        for row, cell in self._no_labels(spec, column):
            missing[row] = _says_nothing(cell)
        return missing

    def bad_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> RowErrors:
        """Row -> what is wrong with its label."""
        return self._checked(spec, rows, self.read_column(spec, rows), split)[1]

    def _checked(
        self, spec: TaskSpec, rows: Dataset, column: LabelColumn, split: str
    ) -> tuple[NDArray[np.float64], RowErrors]:
        """Every label as a number, NaN where a row of "test" has none; and row -> what is wrong with its label.

        *Shape of the first:* (rows,)
        """
        values = column.values.copy() if split == "test" else column.values
        wanted, bad = f" is not {self.wanted(spec)}", RowErrors()
        endings: dict[str, str] = {}  # many bad rows share few
        for row, cell in self._no_labels(spec, column):
            if split == "test" and _says_nothing(cell):
                values[row] = np.nan
            else:
                hint = SKIP_MISSING if _says_nothing(cell) else self.hint(cell)
                bad[row] = f"label {shown(cell)}", endings.setdefault(hint, f"{wanted}{hint}")
        if not column.has_names:
            self.check_column(spec, rows, split, values, bad)
        return values, bad

    def _no_labels(self, spec: TaskSpec, column: LabelColumn) -> Iterator[tuple[int, Any]]:
        """The rows whose cell is no label that the task declares, and the cell."""
        for start in range(0, len(column.values), AT_ONCE):
            rows = start + np.flatnonzero(~self._admitted(spec, column.values[start : start + AT_ONCE]))
            yield from zip(rows.tolist(), column.cells(rows) if len(rows) else (), strict=True)

    def _say_what_indices_mean(self, spec: TaskSpec, column: LabelColumn, split: str) -> None:
        """Tell which index is which class where the data does not name the declared ones."""
        if not column.by_index:
            return
        where, pairs = f"task {spec.name!r}, split {split!r}", ", ".join(column.by_index)
        if column.has_names:
            logger.warning("%s: %s; they go by their indices: %s", where, self.by_index, pairs)
            return
        logger.info("%s: numbers in column %r are indices: %s", where, spec.label_column, pairs)
        if split == "train" and 0 not in column.values:
            logger.warning("%s: index 0 never occurs; indices count from 0: %s", where, pairs)

    def check_labels(self, spec: TaskSpec, labels: Any, where: str, *, labelled: bool) -> NDArray[Any] | None:
        """The labels in the kind's dtype, NaN where a row has none; None where they are that already. *Shape:* (rows,)

        Without `labelled`, -1 is no label where the task declares none such, as in GLUE's test splits.
        """
        types, wanted = pa.types, self.wanted_numbers(spec)
        is_null, is_truth = types.is_null(labels.type), types.is_boolean(labels.type)
        if not (is_null or is_truth or types.is_integer(labels.type) or types.is_floating(labels.type)):
            raise InputError(
                f"{where}: column 'labels' holds {labels.type}, wanted numbers: {wanted}; read_labels(task, raw_rows, "
                "split) makes them"
            )
        numbers = labels.cast(pa.int64() if is_truth else pa.float64()) if is_truth or is_null else labels
        values = np.asarray(numbers.to_numpy(zero_copy_only=False))
        missing, fits = np.isnan(values), self._admitted(spec, values)
        if not labelled:
            missing |= (values == -1) & ~fits
        bad = ~fits if labelled else ~fits & ~missing
        if bad.any():
            row = int(np.argmax(bad))
            found = "no label" if missing[row] else f"label {values[row]!s}"
            hint = "; trainer.predict takes rows without labels" if missing[row] else ""
            raise InputError(f"{where}: {found} in row {row} (the first row is 0), wanted {wanted}{hint}")
        if missing.any():
            return np.where(missing, np.nan, values)
        is_right = labels.null_count == 0 and values.dtype.kind == np.dtype(self.dtype).kind
        return None if is_right else values.astype(self.dtype)

    def _admitted(self, spec: TaskSpec, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each label is one that the task declares. *Shape:* (rows,)"""
        admitted = np.empty(len(values), dtype=bool)
        for start in range(0, len(values), AT_ONCE):
            distinct, places = np.unique(values[start : start + AT_ONCE], return_inverse=True)
            if distinct.dtype.itemsize < 8:  # as written: the fp32 number nearest to 0.1 is above the fp64 one
                distinct = np.array([float(str(value)) for value in distinct])
            fits = [not math.isnan(value) and self.admits(spec, value) for value in distinct.tolist()]
            admitted[start : start + len(places)] = np.array(fits, dtype=bool)[places]
        return admitted


def _says_nothing(cell: Any) -> bool:
    """Whether a cell that is no label of the task says that there is none; -1 does, as in GLUE's test splits."""
    return is_missing(cell) or number_of(cell) == -1
