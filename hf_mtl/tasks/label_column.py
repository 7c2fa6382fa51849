"""A column of labels of any type: as it was written, and as the numbers that a task's head learns."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, List, Value
from numpy.typing import NDArray

from .cells import Number, number_of
from .class_names import ClassNames
from .column_slices import cell_slices

NARROW = {"float16": np.float16, "float32": np.float32}
FLOAT32_STEP = 2.0**-23  # the largest distance of two neighbours in fp32, as a share of them


class Labels(NamedTuple):
    """What some cells mean, unchecked.

    Attributes:
        cells: as they were written; of a `ClassLabel`, its names.
        values: class indices, or values, in range or not; None for what is no label at all.
        by_index: what goes by indices, and as what: "0 = one". Empty where names or values tell everything.
        has_names: whether the data has names for its classes.
    """

    cells: list[Any]
    values: list[Number | None]
    by_index: Sequence[str] = ()
    has_names: bool = False


@dataclass(frozen=True)
class LabelColumn:
    """The labels of some rows, unchecked.

    Attributes:
        values: class indices, or values, in range or not; NaN for what is no label at all. *Shape:* (rows,)
        cells: the cells of the rows at given places, as they were written; of a `ClassLabel`, its names.
        by_index: as of `Labels`.
        has_names: as of `Labels`.
    """

    values: NDArray[np.float64]
    cells: Callable[[NDArray[np.int64]], list[Any]]
    by_index: Sequence[str] = ()
    has_names: bool = False


def read_classes(rows: Dataset, column: str, labels: Sequence[str]) -> LabelColumn:
    """The labels in a column as indices of the classes `labels`."""
    return _read(rows, column, partial(as_classes, rows.features[column], labels=labels))


def as_classes(feature: Any, cells: list[Any], labels: Sequence[str]) -> Labels:
    """Cells of a column as indices of the classes `labels`; `feature` is that of each cell."""
    if isinstance(feature, ClassLabel):
        return _classes_of_the_data(feature.names, cells, labels)
    return _classes([_as_written(cell) for cell in cells], labels)


def read_values(rows: Dataset, column: str, label_range: tuple[float, float]) -> LabelColumn:
    """The labels in a column as values; those that are outside `label_range` but for rounding are its borders."""
    return _read(rows, column, partial(_as_values, rows.features[column], label_range=label_range))


def _as_values(feature: Any, cells: list[Any], label_range: tuple[float, float]) -> Labels:
    if isinstance(feature, ClassLabel):
        return _classes_of_the_data(feature.names, cells, None)
    return Labels(cells, [value_in_range(cell, *label_range) for cell in cells])


def _read(rows: Dataset, column: str, meaning: Callable[[list[Any]], Labels]) -> LabelColumn:
    """A column, some rows at a time; `meaning` says what cells of it mean, and is asked once for equal ones."""
    values, has_names = np.empty(len(rows)), False
    by_index: Sequence[str] = ()
    for start, cells, places in cell_slices(rows, column):
        found = meaning(_unrounded(rows, column, cells))
        numbers = np.array([math.nan if value is None else float(value) for value in found.values])
        values[start : start + len(places)] = numbers[places]
        by_index, has_names = by_index or found.by_index, found.has_names
    return LabelColumn(values, lambda places: meaning(cells_of(rows.select(places), column)).cells, by_index, has_names)


def different_cells(rows: Dataset, column: str) -> Iterator[Any]:
    """The cells of a column; equal ones come once for some thousand rows."""
    for _, cells, _ in cell_slices(rows, column):
        yield from _unrounded(rows, column, cells)


def item_feature(feature: Any) -> Any:
    """The feature of a column's cells or, where these are lists, of what is in them."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return feature if inner is None else inner


def cells_of(rows: Dataset, column: str) -> list[Any]:
    """The cells of a column; numbers of less than fp64 as they were written, 0.1 and not 0.10000000149."""
    return _unrounded(rows, column, rows.with_format(None)[column][:])


def _unrounded(rows: Dataset, column: str, cells: list[Any]) -> list[Any]:
    """Cells of a column; numbers of less than fp64 as they were written."""
    narrow = NARROW.get(getattr(rows.features[column], "dtype", ""))
    return cells if narrow is None else [None if cell is None else float(str(narrow(cell))) for cell in cells]


def _as_written(cell: Any) -> Any:
    """A date, or bytes that are text, as the text that a class may be called by; anything else as it is."""
    if isinstance(cell, datetime.date | datetime.time):
        return str(cell)
    try:
        return cell.decode() if isinstance(cell, bytes) else cell
    except UnicodeDecodeError:
        return cell


def with_classes(rows: Dataset, column: str, classes: ClassLabel) -> Dataset:
    """Rows whose labels are names or indices of `classes`, or lists of them, as a `ClassLabel`.

    Where there are others too, indices become names, and all other cells stay what they are, as texts. Of lists, those
    of indices become lists of a `ClassLabel`.
    """
    cells, rest = rows[column][:], rows.remove_columns([column])
    if not any(isinstance(cell, list) for cell in cells):
        found, feature = _with_classes(cells, classes)
        return rest.add_column(column, found, feature=feature)
    flat, feature = _with_classes([item for cell in cells for item in cell or ()], classes)
    items = iter(flat)
    lists = [None if cell is None else list(islice(items, len(cell))) for cell in cells]
    return rest.add_column(column, lists, feature=List(feature))


def _with_classes(cells: list[Any], classes: ClassLabel) -> tuple[list[Any], Any]:
    """Cells as indices of `classes` or, where one is none of them, as texts; and their feature."""
    names = ClassNames(classes.names)
    named = [names.by_name(cell) for cell in cells]
    indices = [names.by_index(cell) if index is None else index for index, cell in zip(named, cells, strict=True)]
    inside = [index is not None and 0 <= index < len(classes.names) and index == int(index) for index in indices]
    if all(there or cell is None or index == -1 for index, there, cell in zip(indices, inside, cells, strict=True)):
        return [None if index is None else int(index) for index in indices], classes
    texts = [
        classes.names[int(index or 0)] if there else None if cell is None else str(cell)
        for index, there, cell in zip(indices, inside, cells, strict=True)
    ]
    return texts, Value("string")


def _classes(cells: list[Any], labels: Sequence[str]) -> Labels:
    names = ClassNames(labels)
    named = [names.by_name(cell) for cell in cells]
    values = [names.by_index(cell) if index is None else index for index, cell in zip(named, cells, strict=True)]
    indexed = any(index is None and value not in (None, -1) for index, value in zip(named, values, strict=True))
    return Labels(cells, values, [f"{i} = {label}" for i, label in enumerate(labels)] if indexed else ())


def _classes_of_the_data(names: Sequence[str], cells: list[Any], labels: Sequence[str] | None) -> Labels:
    """Labels of a `ClassLabel`: by its names where one of them is known, else by their indices."""
    numbers = _numbers_of_names(names, labels)
    by_index: list[str] = []
    if numbers is None:
        indices = _indices_of_names(names, labels)
        targets = labels or list(map(str, range(len(names))))
        by_index = [f"{name} = {targets[i]}" for name, i in zip(names, indices, strict=True) if i < len(targets)]
        numbers = list(indices)
    known = [cell is not None and 0 <= cell < len(names) for cell in cells]
    written = [names[cell] if there else cell for cell, there in zip(cells, known, strict=True)]
    values = [numbers[cell] if there else None for cell, there in zip(cells, known, strict=True)]
    return Labels(written, values, by_index, has_names=True)


def _numbers_of_names(names: Sequence[str], labels: Sequence[str] | None) -> list[Number | None] | None:
    """What each of the data's classes means by its name; None where the names say nothing."""
    if labels is None:
        values = [number_of(name) for name in names]
        return None if None in values else values
    known = ClassNames(labels)
    indices = [known.by_name(name) for name in names]
    # Two classes of the data are never one of the task's: the one that has its very name is it.
    indices = [i if name in labels or indices.count(i) == 1 else None for name, i in zip(names, indices, strict=True)]
    return None if all(index is None for index in indices) else list(indices)


def _indices_of_names(names: Sequence[str], labels: Sequence[str] | None) -> list[int]:
    """The index of each of the data's classes: its place, or its name, where the names "1" and "0" are indices."""
    spelled = [number_of(name) for name in names]
    if labels is not None and set(spelled) == set(range(len(labels))):
        return [int(number) for number in spelled if number is not None]
    return list(range(len(names)))


def value_in_range(cell: Any, low: float, high: float) -> Number | None:
    """The number that a cell is, or the border of the range that it is but for the rounding of fp32."""
    number, rounding = number_of(cell), FLOAT32_STEP * max(abs(low), abs(high))
    if number is None or not low - rounding <= number <= high + rounding:
        return number
    return min(max(number, low), high)
