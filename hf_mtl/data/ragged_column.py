"""Columns of rows of unequal length, such as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
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

    def __getitem__(self, places: NDArray[np.int64]) -> RaggedColumn:
        lengths = self.lengths[places]
        ends = lengths.cumsum()
        indices = (self.starts[places] - ends + lengths).repeat(lengths)
        indices += np.arange(len(indices))
        return RaggedColumn(self.values.take(indices), lengths)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        ends = np.cumsum(self.lengths)
        return (self.values[end - length : end] for end, length in zip(ends, self.lengths, strict=True))


Columns = Mapping[str, NDArray[Any] | RaggedColumn]


def from_arrow(array: Any) -> NDArray[Any] | RaggedColumn:
    """An arrow column, as an array or as rows of unequal length."""
    array = array.combine_chunks()
    if not hasattr(array, "offsets"):
        cells = np.asarray(array.to_numpy(zero_copy_only=False))
        is_list = len(cells) and cells.dtype == object and all(np.ndim(cell) == 1 for cell in cells)
        return RaggedColumn.of(cells) if is_list else cells  # lists that are declared to be of one length
    lengths = np.diff(array.offsets.to_numpy().astype(np.int64))
    return RaggedColumn(array.flatten().to_numpy(zero_copy_only=False), lengths)
