"""The training rows that are cut off as a task's validation rows, and the sample that it wants of a split's rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError, unknown_name_error
from ..tasks.column_slices import array_slices, decoded
from ..tasks.labels import read_strata
from ..tasks.spec import TaskSpec
from ..tasks.split_names import own_splits
from .cuts import held_out, joined_groups, row_places, sampled, text_places

PARTS = ("train", "validation")  # of the training rows


def check_uncut(spec: TaskSpec, splits: Collection[str]) -> None:
    """Raise InputError where data whose training rows are to be cut has validation rows that the task takes as such."""
    taken = [own for name in spec.splits.values() for own in own_splits(name)]  # for training or as a test
    if "validation" in splits and "validation" not in taken:
        raise InputError(
            f"task {spec.name!r}: validation_fraction cuts validation rows off the training rows, and the data has a "
            "split 'validation'; leave validation_fraction out"
        )


def cut_rows(spec: TaskSpec, rows: Dataset) -> dict[str, NDArray[np.int64]]:
    """Each of `PARTS` -> the numbers of the training rows that it has. *Shape of each:* (rows,)

    Raises:
        InputError: for a bad label, a missing column of groups, and where one of the parts would have no row.
    """
    assert spec.validation_fraction is not None
    group_column = spec.group_column
    if group_column is not None and group_column not in rows.column_names:
        raise unknown_name_error(f"group_column of task {spec.name!r}:", group_column, rows.column_names)
    places = text_places(_texts(spec, rows))
    groups = joined_groups(places, None if group_column is None else _cells(rows, group_column))
    found = held_out(places, groups, read_strata(spec, rows), spec.validation_fraction)
    if found.all() or not found.any():
        raise InputError(
            f"task {spec.name!r}, split 'train': validation_fraction {spec.validation_fraction:g} of {len(rows)} rows "
            f"in {len(np.unique(groups))} groups leaves no row for {'training' if found.all() else 'validation'}; rows "
            "of equal texts or of one group stay together; wanted another fraction, or more rows"
        )
    return {"train": np.flatnonzero(~found), "validation": np.flatnonzero(found)}


def sample_rows(spec: TaskSpec, split: str, rows: Dataset) -> NDArray[np.int64] | None:
    """The numbers of the rows that the task wants of a split, in order; None where it wants all. *Shape:* (rows,)"""
    number = spec.max_rows.get(split)
    if number is None or len(rows) <= number:
        return None
    return sampled(row_places(_texts(spec, rows)), int(number))


def _texts(spec: TaskSpec, rows: Dataset) -> Iterator[tuple[Any, ...]]:
    """Of each row what its text columns hold."""
    return zip(*(_cells(rows, column) for column in spec.text_columns), strict=True)


def _cells(rows: Dataset, column: str) -> Iterator[Any]:
    """The cells of a column, of which some are in memory at a time."""
    return (cell for _, cells in array_slices(rows, column) for cell in decoded(rows, column, cells))
