"""Columns of many rows: of unequal length, such as token ids, and in pieces, such as those of a mapped file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


class RaggedColumn:
    """Rows of unequal length in one array: `ragged[places]` has the rows at these places; iterating, each is a view.

    Args:
        values: of all rows, one after another.
        lengths: of each row. *Shape:* (rows,)
    """

    def __init__(self, values: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        self.values, self.lengths = values, lengths

    @classmethod
    def of(cls, rows: Sequence[Any] | NDArray[Any]) -> RaggedColumn:
        """From rows by themselves."""
        return cls(np.concatenate(rows), np.array(list(map(len, rows))))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each row begins. *Shape:* (rows,)."""
        return np.cumsum(self.lengths) - self.lengths

    def __getitem__(self, places: NDArray[np.int64]) -> list[NDArray[Any]]:
        return [self.values[self.starts[place] : self.starts[place] + self.lengths[place]] for place in places.tolist()]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        ends = np.cumsum(self.lengths)
        return (self.values[end - length : end] for end, length in zip(ends, self.lengths, strict=True))


class ArrowColumn:
    """An Arrow column where it is, chunk by chunk: a file that is mapped into memory is not copied.

    Args:
        column: without null.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._ends = np.cumsum(list(map(len, self._chunks)))
        self._starts = self._ends - list(map(len, self._chunks))

    def _places(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """The chunk of each row, and where the row is in it."""
        owners = np.searchsorted(self._ends, rows, side="right")
        return zip(owners.tolist(), (rows - self._starts[owners]).tolist(), strict=True)


class ArrowLists(ArrowColumn):
    """A column of lists; `lists[places]` has the rows at these places, each as a view of the column."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        super().__init__(column)
        self._offsets = [np.asarray(chunk.offsets) for chunk in self._chunks]
        self._values = [chunk.values.to_numpy(zero_copy_only=False) for chunk in self._chunks]

    def __getitem__(self, places: NDArray[np.int64]) -> list[NDArray[Any]]:
        offsets = self._offsets
        return [
            self._values[owner][offsets[owner][row] : offsets[owner][row + 1]] for owner, row in self._places(places)
        ]


class ArrowNumbers(ArrowColumn):
    """A column of numbers; `numbers[places]` has those of the rows at these places."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        super().__init__(column)
        self._values = [chunk.to_numpy(zero_copy_only=False) for chunk in self._chunks]

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[Any]:
        return np.array([self._values[owner][row] for owner, row in self._places(places)])


def as_array(column: pa.ChunkedArray, dtype: type[Number]) -> NDArray[Number]:
    """A column of numbers as one array of another type, without a copy in the type that it has. *Shape:* (rows,)"""
    array, start = np.empty(len(column), dtype), 0
    for chunk in column.chunks:
        array[start : start + len(chunk)] = chunk
        start += len(chunk)
    return array


def from_arrow(column: pa.ChunkedArray) -> NDArray[Any] | RaggedColumn | ArrowLists | ArrowNumbers:
    """An Arrow column: numbers as they are, lists as rows of unequal length."""
    types = pa.types
    if types.is_list(column.type) or types.is_large_list(column.type):
        return ArrowLists(column)
    if column.num_chunks > 1 and (types.is_integer(column.type) or types.is_floating(column.type)):
        return ArrowNumbers(column)
    cells = np.asarray(column.to_numpy())
    is_list = len(cells) and cells.dtype == object and all(np.ndim(cell) == 1 for cell in cells)
    return RaggedColumn.of(cells) if is_list else cells  # lists that are declared to be of one length
