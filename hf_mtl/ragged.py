"""Columns of rows of unequal length, such as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Ragged:
    """Rows of unequal length in one array: `ragged[places]` has the rows at these places; iterating, each is a view.

    Args:
        values: of all rows, one after another.
        starts: where each row begins, and the end of the last one. *Shape:* (rows + 1,)
    """

    def __init__(self, values: NDArray[Any], starts: NDArray[np.int64]) -> None:
        self.values, self.starts = values, starts

    @classmethod
    def of(cls, rows: Sequence[Any]) -> Ragged:
        """From rows by themselves."""
        return cls(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """*Shape:* (rows,)"""
        return np.diff(self.starts)

    def __getitem__(self, places: NDArray[np.int64]) -> Ragged:
        begins = self.starts[places]
        lengths = self.starts[places + 1] - begins
        starts = np.concatenate(([0], np.cumsum(lengths)))
        return Ragged(self.values[np.repeat(begins - starts[:-1], lengths) + np.arange(starts[-1])], starts)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self.values[start:end] for start, end in pairwise(self.starts.tolist()))


Columns = Mapping[str, NDArray[Any] | Ragged]


def column_of(array: Any) -> NDArray[Any] | Ragged:
    """An arrow column, as an array or as rows of unequal length."""
    array = array.combine_chunks()
    if not hasattr(array, "offsets"):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    starts = array.offsets.to_numpy().astype(np.int64)
    return Ragged(array.flatten().to_numpy(zero_copy_only=False), starts - starts[0])
