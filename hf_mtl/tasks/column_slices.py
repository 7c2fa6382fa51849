"""A column of any number of rows, some of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset
from numpy.typing import NDArray

AT_ONCE = 65_536  # rows


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: Any, /) -> None:
        """Take more bytes."""


def add_to_digest(digest: Hash, rows: Dataset) -> None:
    """Feed all cells to a hash, which is the same however the table is divided."""
    table = rows.with_format("arrow")
    for start in range(0, len(rows), AT_ONCE):
        for batch in table[start : start + AT_ONCE].combine_chunks().to_batches():
            digest.update(batch.serialize())


def array_slices(rows: Dataset, column: str) -> Iterator[tuple[int, Any]]:
    """The number of a first row, and the cells from there on as an Arrow array of at most `AT_ONCE`; to the end."""
    cells = rows.select_columns([column]).with_format("arrow")
    for start in range(0, len(rows), AT_ONCE):
        for array in cells[start : start + AT_ONCE].combine_chunks()[column].chunks:  # one, but of very long texts
            yield start, array
            start += len(array)


def decoded(rows: Dataset, column: str, array: Any) -> list[Any]:
    """An Arrow array of a column's cells as Python's own values, as the column's feature says."""
    cells: list[Any] = rows.features.decode_column(array.to_pylist(), column)
    return cells


def cell_slices(rows: Dataset, column: str) -> Iterator[tuple[int, list[Any], NDArray[np.int64]]]:
    """The number of a first row; the different cells of the rows from there on; and which of these each row has.

    None is among the cells where a row has none. *Shape of the last:* (at most `AT_ONCE`,)
    """
    for start, array in array_slices(rows, column):
        try:
            encoded = array.dictionary_encode()
        except pa.ArrowNotImplementedError:  # such as lists
            yield start, decoded(rows, column, array), np.arange(len(array))
            continue
        cells = decoded(rows, column, encoded.dictionary)
        if not encoded.null_count:
            yield start, cells, encoded.indices.to_numpy().astype(np.int64)
            continue
        places = encoded.indices.fill_null(len(cells)).to_numpy(zero_copy_only=False)
        yield start, [*cells, None], places.astype(np.int64)
