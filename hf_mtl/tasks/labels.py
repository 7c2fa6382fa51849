"""Labels of a task's raw rows: read as class indices or values, and checked."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from ..model.heads import KINDS
from .cells import Number, is_missing, number_of, shown
from .label_column import LabelColumn, read_column
from .spec import TaskSpec, file_list
from .text_files import about_quotes

logger = logging.getLogger(__name__)

FirstRows = Sequence[tuple[str, int]]  # files, and the number of the first row of each among the rows of all
RowErrors = dict[int, tuple[str, str]]  # row -> what is wrong with it, in words that go before and after where it is


def raise_first(spec: TaskSpec, rows: Dataset, split: str, bad: RowErrors) -> None:
    """Raise InputError for the first bad row."""
    if bad:
        hint = "" if split == "test" else "; --on_bad_row skip leaves such training and validation rows out"
        raise InputError(f"{_told(spec, rows, split, min(bad), bad)}{hint}")


def _told(spec: TaskSpec, rows: Dataset, split: str, row: int, bad: RowErrors) -> str:
    source, number = place_of(spec, rows, split, row)
    before, after = bad[row]
    return f"task {spec.name!r}, split {split!r}: {before} in row {number} (the first row is 0) of {source}{after}"


def set_files(rows: Dataset, files: FirstRows) -> Dataset:
    """The rows, which know from now on which files they came from; what is made of them does not."""
    rows.hf_mtl_files = files
    return rows


def files_of(rows: Dataset) -> FirstRows:
    """The files that rows came from, where that is known."""
    return getattr(rows, "hf_mtl_files", ())


def place_of(spec: TaskSpec, rows: Dataset, split: str, row: int) -> tuple[str, int]:
    """Where a row comes from, for messages, and its number there."""
    if files := [(path, first) for path, first in files_of(rows) if first <= row]:
        path, first = files[-1]
        return repr(path), row - first
    return source_of(spec, split), row


def source_of(spec: TaskSpec, split: str) -> str:
    """Where the rows of a split come from, for messages."""
    if spec.files:
        return ", ".join(map(repr, file_list(spec.files.get(split, ()))))
    if spec.dataset is None:
        return "the rows given"
    return f"{spec.dataset!r}, configuration {spec.config!r}"


def read_labels(spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
    """The labels as class indices (int64) or values (float64), checked; says what numbers mean. *Shape:* (rows,)

    Args:
        spec: the task.
        rows: its raw rows.
        split: in "test", rows may lack a label: no column, null, NaN, a text of `cells.MISSING`, or -1, where these
            are no label of the task. They come back as NaN, and all labels as floats.

    Raises:
        InputError: for the first label that is not one the task declares; it names the row and what was wanted.
    """
    column, where = spec.label_column, f"task {spec.name!r}, split {split!r}"
    unlabelled = split == "test"
    if column not in rows.column_names:
        if unlabelled:
            return np.full(len(rows), np.nan)
        columns = f"{', '.join(rows.column_names)}{about_quotes(rows.column_names)}"
        raise InputError(f"{where}: no label column {column!r}; the columns are {columns}")
    labels = _column(spec, rows)
    values, bad = _checked(spec, rows, labels, split)
    raise_first(spec, rows, split, bad)
    _say_what_indices_mean(spec, labels, split)
    return np.asarray(values, dtype=np.float64 if unlabelled or spec.kind == "regression" else np.int64)


def _column(spec: TaskSpec, rows: Dataset) -> LabelColumn:
    return read_column(rows, spec.label_column, spec.labels, spec.label_range)


def label_numbers(spec: TaskSpec, rows: Dataset, split: str) -> tuple[list[Number | None], RowErrors]:
    """Every label as a number, NaN where a row of "test" has none; and row -> what is wrong with its label.

    Raises:
        InputError: when the indices of classes count from 1, so that not some of them are wrong but all.
    """
    return _checked(spec, rows, _column(spec, rows), split)


def _checked(spec: TaskSpec, rows: Dataset, column: LabelColumn, split: str) -> tuple[list[Number | None], RowErrors]:
    values, head, admits = list(column.values), spec.head, KINDS[spec.kind].admits
    wanted = f"one of {list(spec.labels)}" if spec.labels else f"a number in {list(spec.label_range or ())}"
    ending, bad = f" is not {wanted}", RowErrors()
    for row, (value, cell) in enumerate(zip(values, column.cells, strict=True)):
        if value is not None and admits(value, head):
            continue
        if split == "test" and (is_missing(cell) or number_of(cell) == -1):
            values[row] = np.nan
        else:
            bad[row] = f"label {shown(cell)}", ending if spec.labels else ending + _about_a_comma(cell)
    if spec.labels and not column.has_names and _count_from_1(values, len(spec.labels)):
        row, last = values.index(len(spec.labels)), len(spec.labels) - 1
        raise InputError(
            f"{_told(spec, rows, split, row, bad)}; the labels seem to count from 1: write 0 to {last}, or the names"
        )
    return values, bad


def _about_a_comma(cell: Any) -> str:
    """What to do about a number with a comma, which is a decimal mark to some and a thousands' mark to others."""
    if not isinstance(cell, str) or "," not in cell or number_of(cell.replace(",", "")) is None:
        return ""
    return "; ',' is not read: write '.' before decimals, and nothing between thousands"


def _count_from_1(values: list[Number | None], num_classes: int) -> bool:
    """Whether the numbers are 1 to `num_classes`, with the first and the last of them."""
    numbers = {value for value in values if value is not None and value != -1 and not math.isnan(value)}
    return {1, num_classes} <= numbers <= set(range(1, num_classes + 1))


def _say_what_indices_mean(spec: TaskSpec, column: LabelColumn, split: str) -> None:
    """Tell which index is which class where the data does not name the declared ones."""
    if not column.by_index:
        return
    where, pairs = f"task {spec.name!r}, split {split!r}", ", ".join(column.by_index)
    if column.has_names:
        reason = "none of the data's classes is declared" if spec.labels else "the data has classes, not values"
        logger.warning("%s: %s; they go by their indices: %s", where, reason, pairs)
        return
    logger.info("%s: numbers in column %r are indices: %s", where, spec.label_column, pairs)
    if split == "train" and 0 not in column.values:
        logger.warning("%s: index 0 never occurs; indices count from 0: %s", where, pairs)
