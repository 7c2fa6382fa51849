"""Columns of lists, one for each word: tags of any type as indices of the declared ones, and how long the lists are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset, Features
from numpy.typing import NDArray

from ..errors import InputError
from .found_labels import FoundLabels, found_names
from .label_column import as_classes, cells_of

NO_LIST = -1  # the length of a list that is not there
NO_TAG = -1  # the index of a cell that is no tag
OF_LISTS = "a cell of csv or tsv is one text, and lists are read from jsonl and parquet"


@dataclass(frozen=True)
class TagColumn:
    """The tags of some rows, unchecked.

    Attributes:
        values: indices of the declared tags, of all rows, one after another; `NO_TAG` for a cell that is none.
        places: which of `cells` each of them is. *Shape:* that of `values`
        cells: the different cells, as they were written; of a `ClassLabel`, its names.
        lengths: of each row's list; `NO_LIST` where a row has none. *Shape:* (rows,)
        by_index: what goes by indices, and as what: "0 = O". Empty where names tell everything.
        has_names: whether the data has names for its tags.
    """

    values: NDArray[np.int64]
    places: NDArray[np.int64]
    cells: list[Any]
    lengths: NDArray[np.int64]
    by_index: Sequence[str] = ()
    has_names: bool = False

    def rows_of_values(self) -> NDArray[np.int64]:
        """The row of each value. *Shape:* that of `values`"""
        return np.repeat(np.arange(len(self.lengths)), self.lengths.clip(min=0))


def read_tags(rows: Dataset, column: str, labels: Sequence[str]) -> TagColumn:
    """The lists in a column as indices of the tags `labels`.

    Raises:
        InputError: for a column of anything but lists of tags.
    """
    array = lists_of(rows, column)
    if array is None:
        return no_tags(len(rows))
    encoded, distinct = _encoded(rows, column, array)
    found = as_classes(distinct.features[column], cells_of(distinct, column), labels)
    is_tag = [each is not None and float(each).is_integer() and 0 <= each < len(labels) for each in found.values]
    indices = [int(each or 0) if there else NO_TAG for each, there in zip(found.values, is_tag, strict=True)]
    places = encoded.indices.fill_null(len(indices)).to_numpy(zero_copy_only=False).astype(np.int64)
    values = np.array([*indices, NO_TAG], dtype=np.int64)[places]
    return TagColumn(values, places, [*found.cells, None], list_lengths(array), found.by_index, found.has_names)


def find_tags(rows: Dataset, column: str) -> FoundLabels:
    """The names of the tags in the lists of a column.

    Raises:
        InputError: for a column of anything but lists of tags.
    """
    array = lists_of(rows, column)
    if array is None:
        return FoundLabels(())
    _, distinct = _encoded(rows, column, array)
    return found_names(distinct.features[column], cells_of(distinct, column))


def _encoded(rows: Dataset, column: str, array: Any) -> tuple[Any, Dataset]:
    """The tags of all rows, one after another, as an Arrow array with a dictionary; and its different cells, as rows.

    Raises:
        InputError: for lists of anything but tags.
    """
    feature = rows.features[column]
    feature = feature[0] if isinstance(feature, list) else feature.feature
    flat = pc.list_flatten(array)
    if pa.types.is_nested(flat.type):
        raise InputError(f"column {column!r} is {rows.features[column]}, wanted lists of tags")
    encoded = flat.dictionary_encode()
    return encoded, Dataset.from_dict({column: encoded.dictionary.to_pylist()}, Features({column: feature}))


def no_tags(num_rows: int) -> TagColumn:
    """The column of rows without tags."""
    nothing = np.zeros(0, dtype=np.int64)
    return TagColumn(nothing, nothing, [], np.full(num_rows, NO_LIST))


def lists_of(rows: Dataset, column: str) -> Any:
    """A column of lists as one Arrow array; None where every cell is null.

    Raises:
        InputError: for a column of anything else.
    """
    array = rows.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    types = pa.types
    if types.is_null(array.type):
        return None
    if not (types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type)):
        way = f"; {OF_LISTS}" if types.is_string(array.type) or types.is_large_string(array.type) else ""
        raise InputError(f"column {column!r} is {rows.features[column]}, wanted lists of tags{way}")
    return array


def list_lengths(array: Any) -> NDArray[np.int64]:
    """How long the lists of an Arrow array are, `NO_LIST` for null. *Shape:* (rows,)"""
    lengths = pc.list_value_length(array).fill_null(NO_LIST)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
