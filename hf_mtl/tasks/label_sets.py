"""Rows that have any number of labels each, in every form in which tables have them, as 0 and 1 for each label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray

from ..errors import InputError
from .cells import LISTED, is_missing, number_of, shown, spells_list, truth_of
from .class_names import ClassNames, truth_of_name
from .found_labels import FoundLabels, found_names
from .label_column import Labels, as_classes, cells_of, item_feature
from .row_errors import SKIP_MISSING, RowErrors, source_of, told
from .spec import TaskSpec

OF_LISTS = "; a list is read from jsonl and parquet, in csv write the names with a label_delimiter between"
MARKS = ",;|/\t"  # that people write between names
Array = NDArray[np.float64]


def read_sets(spec: TaskSpec, rows: Dataset, split: str) -> tuple[Array, RowErrors, Labels | None]:
    """1 for every label that a row has, else 0; NaN for a row that has no label, or a bad one.

    Args:
        spec: the task.
        rows: its raw rows, with the columns of labels.
        split: in "test", a row may have nothing where its labels would be.

    Returns:
        The labels; what is wrong with which row; and, of a column of names or indices, what was in its lists.
        *Shape:* (rows, labels)
    """
    return _read_columns(spec, rows, split) if spec.label_columns else _read_lists(spec, rows, split)


def wanted_names(labels: Sequence[str]) -> str:
    """The names for a message."""
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return f"{list(labels[:LISTED])}{more}"


def missing_sets(spec: TaskSpec, rows: Dataset) -> NDArray[np.bool_]:
    """Which rows have nothing where their labels would be, and nothing wrong there. *Shape:* (rows,)

    Of a column for each label, nothing in one of them is enough.
    """
    if not spec.label_columns:
        names = ClassNames(spec.names)
        lists = (_items(cell, spec.label_delimiter) for cell in cells_of(rows, spec.label_column))
        return np.array([_says_nothing(items, names) for items in lists], dtype=bool)
    columns = [_cells(rows, column) for column in spec.label_columns]
    wrong = [[_zero_or_one(cell) is None for cell in cells] for cells in zip(*columns, strict=True)]
    nothing = [list(map(_is_nothing, cells)) for cells in zip(*columns, strict=True)]
    return np.array([any(bad) and bad == none for bad, none in zip(wrong, nothing, strict=True)], dtype=bool)


def find_sets(spec: TaskSpec, rows: Dataset) -> FoundLabels:
    """The names that the lists in the label column have.

    Raises:
        InputError: where the lists are not of names but of 0 and 1 for every label, or are the text of a list.
    """
    cells = cells_of(rows, spec.label_column)
    if (spelled := next((row for row, cell in enumerate(cells) if spells_list(cell, (str, int))), None)) is not None:
        bad = {spelled: (f"label {shown(cells[spelled])}", f" is the text of a list{OF_LISTS}")}
        raise InputError(told(spec, rows, "train", spelled, bad))
    lists = [_items(cell, spec.label_delimiter) for cell in cells]
    longest = max((len(items) for items in lists if items), default=0)
    if longest > 1:
        _check_no_vectors(spec, "train", lists, ClassNames([f"label {place}" for place in range(longest)]))
    items = (item for items in lists for item in items or ())
    return found_names(item_feature(rows.features[spec.label_column]), items)


# ---- a column for each label ----


def _read_columns(spec: TaskSpec, rows: Dataset, split: str) -> tuple[Array, RowErrors, None]:
    sets, wrong, nothing = np.full((len(rows), len(spec.label_columns)), np.nan), RowErrors(), RowErrors()
    for place, column in enumerate(spec.label_columns):
        for row, cell in enumerate(_cells(rows, column)):
            value = _zero_or_one(cell)
            if value is not None:
                sets[row, place] = value
            elif not _is_nothing(cell):
                wrong.setdefault(row, (f"label {shown(cell)} of column {column!r}", " is not 0 or 1"))
            elif split != "test":
                nothing.setdefault(row, (f"label {shown(cell)} of column {column!r}", f" is not 0 or 1{SKIP_MISSING}"))
    sets[np.isnan(sets).any(axis=1)] = np.nan
    return sets, {**nothing, **wrong}, None


def _cells(rows: Dataset, column: str) -> list[Any]:
    """The cells of a column; of a `ClassLabel`, what its names say, such as "no" and "yes"."""
    feature, cells = rows.features[column], cells_of(rows, column)
    if not isinstance(feature, ClassLabel):
        return cells
    truths = [truth_of_name(name) for name in feature.names]
    meant = [name if truth is None else truth for name, truth in zip(feature.names, truths, strict=True)]
    return [meant[cell] if cell is not None and 0 <= cell < len(meant) else cell for cell in cells]


def _zero_or_one(cell: Any) -> float | None:
    truth = truth_of(cell)
    number = number_of(cell) if truth is None else float(truth)
    return float(number) if number in (0, 1) else None


# ---- a column of lists, or of texts ----


def _read_lists(spec: TaskSpec, rows: Dataset, split: str) -> tuple[Array, RowErrors, Labels]:
    labels = spec.names
    lists = [_items(cell, spec.label_delimiter) for cell in cells_of(rows, spec.label_column)]
    names = ClassNames(labels)
    if split == "test":
        lists = [None if _says_nothing(items, names) else items for items in lists]
    _check_no_vectors(spec, split, lists, names)
    flat = [item for items in lists for item in items or ()]
    column = as_classes(item_feature(rows.features[spec.label_column]), flat, labels)
    owners = [row for row, items in enumerate(lists) for _ in items or ()]
    sets, bad, hints = np.zeros((len(lists), len(labels))), RowErrors(), _Hints(names)
    wanted, endings = f" is not one of {wanted_names(labels)}", dict[str, str]()  # many bad rows share few
    for row, value, cell, item in zip(owners, column.values, column.cells, flat, strict=True):
        is_truth = isinstance(item, bool) and names.by_name(item) is None
        if value is not None and not is_truth and float(value).is_integer() and 0 <= value < len(labels):
            sets[row, int(value)] = 1.0
        else:
            hint = hints[cell] if isinstance(cell, str) else ""
            hint = SKIP_MISSING if _says_nothing(lists[row], names) else hint
            bad.setdefault(row, (f"label {shown(cell)}", endings.setdefault(hint, f"{wanted}{hint}")))
    for row, items in enumerate(lists):
        if items is None:
            sets[row] = np.nan
            if split != "test":
                bad[row] = "label None", _what_is_no_label(spec)
    _check_count_from_1(spec, split, column)
    sets[list(bad)] = np.nan
    return sets, bad, column


def _items(cell: Any, delimiter: str | None) -> list[Any] | None:
    """The names or indices in a cell; None where it says nothing. A delimiter parts texts, also those of a list."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    items: list[Any] = list(cell) if isinstance(cell, list | tuple | np.ndarray) else [cell]
    return [piece for item in items for piece in (_pieces(item, delimiter) if isinstance(item, str) else [item])]


def _pieces(text: str, delimiter: str | None) -> list[str]:
    return [piece.strip() for piece in (text.split(delimiter) if delimiter else [text]) if piece.strip()]


def _says_nothing(items: list[Any] | None, names: ClassNames) -> bool:
    """Whether a row of "test" has no label: null, -1, or one of the texts for it that is no name."""
    if items is None:
        return True
    is_one = len(items) == 1 and names.by_name(items[0]) is None
    return is_one and _is_nothing(items[0])


def _is_nothing(cell: Any) -> bool:
    return is_missing(cell) or number_of(cell) == -1


class _Hints(dict[Any, str]):
    """Cell that is no label -> what to do about it, or nothing; found once for all rows that have it."""

    def __init__(self, names: ClassNames) -> None:
        self.names = names

    def __missing__(self, cell: Any) -> str:
        self[cell] = _hint(cell, self.names)
        return self[cell]


def _hint(cell: str, names: ClassNames) -> str:
    """What to do about a text that is no label, or nothing."""
    for mark in MARKS:
        pieces = cell.split(mark)
        if len(pieces) > 1 and all(names.by_name(piece.strip()) is not None for piece in pieces):
            return f"; label_delimiter: {mark!r} would part it"
    if cell.startswith("["):
        return OF_LISTS
    name = names.nearest(cell)
    return "" if name is None else f" (did you mean {name!r}?)"


def _what_is_no_label(spec: TaskSpec) -> str:
    way = "an empty list or text is a row without labels"
    if spec.label_delimiter is None:
        way += ", and with label_delimiter an empty cell of csv is one"
    return f" is no list of names from {wanted_names(spec.names)}; {way}{SKIP_MISSING}"


def _check_no_vectors(spec: TaskSpec, split: str, lists: Sequence[list[Any] | None], names: ClassNames) -> None:
    """Raise InputError where the lists are not of indices but of 0 and 1 for every label."""
    if any(names.by_name(value) is not None for value in (0, 1, True, False)):
        return
    width = len(names.labels)
    vectors = [[_zero_or_one(item) for item in items] for items in lists if items is not None]
    if not all(len(items) == width and None not in items for items in vectors):
        return
    # Of two labels, [1, 0] may be indices of both; such lists alone, some of them turned round, are one-hot vectors.
    one_hot = width == 2 and len({tuple(items) for items in vectors}) == 2
    if one_hot or any(len(set(items)) < width for items in vectors):
        raise InputError(
            f"task {spec.name!r}, split {split!r}: the lists in column {spec.label_column!r} of "
            f"{source_of(spec, split)} seem to be 0 or 1 for each of the {width} labels, wanted names or indices of "
            "the labels that a row has; or columns of 0 and 1, which label_columns names"
        )


def _check_count_from_1(spec: TaskSpec, split: str, column: Labels) -> None:
    """Raise InputError where the indices count from 1."""
    most, numbers = len(spec.names), set(column.values)
    if not column.has_names and {1, most} <= numbers <= set(range(1, most + 1)):
        raise InputError(
            f"task {spec.name!r}, split {split!r}: the labels in column {spec.label_column!r} of "
            f"{source_of(spec, split)} seem to count from 1: write 0 to {most - 1}, or the names"
        )
