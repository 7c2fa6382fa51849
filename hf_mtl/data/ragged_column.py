"""Columns of rows of unequal length, such as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray


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


class ArrowLists:
    """An Arrow column of lists where it is, chunk by chunk: a file that is mapped into memory is not copied.

    `lists[places]` has the rows at these places, each as a view of the column.

    Args:
        column: of lists, without null.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._offsets = [np.asarray(chunk.offsets) for chunk in chunks]
        self._values = [chunk.values.to_numpy(zero_copy_only=False) for chunk in chunks]
        self._ends = np.cumsum(list(map(len, chunks)))
        self._starts = self._ends - list(map(len, chunks))

    def __getitem__(self, places: NDArray[np.int64]) -> list[NDArray[Any]]:
        owners = np.searchsorted(self._ends, places, side="right")
        return [
            self._values[owner][self._offsets[owner][row] : self._offsets[owner][row + 1]]
            for owner, row in zip(owners.tolist(), (places - self._starts[owners]).tolist(), strict=True)
        ]


def from_arrow(column: pa.ChunkedArray) -> NDArray[Any] | RaggedColumn | ArrowLists:
    """An Arrow column: numbers as an array, lists as rows of unequal length."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return ArrowLists(column)
    cells = np.asarray(column.to_numpy())
    is_list = len(cells) and cells.dtype == object and all(np.ndim(cell) == 1 for cell in cells)
    return RaggedColumn.of(cells) if is_list else cells  # lists that are declared to be of one length
