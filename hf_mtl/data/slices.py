"""The rows of a split that is slices of the data's own splits, with what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray

from ..errors import InputError
from ..tasks.columns import TextFaults
from ..tasks.row_errors import files_of, numbers_of_rows, set_files
from ..tasks.spec import TaskSpec
from ..tasks.split_names import own_splits, slices_of

# The rows of a split, what is wrong with the texts of which, and the table that they are of.
Found = tuple[Dataset, TextFaults, Dataset]


def sliced(spec: TaskSpec, split: str, load: Callable[[TaskSpec], Found | None]) -> tuple[Dataset, TextFaults]:
    """The slices that a task takes for a split, one after the other; the rows know where they came from.

    Args:
        spec: the task.
        split: of it; its value in `spec.splits` is slices of splits that are there.
        load: gives the rows of `split` of a task that has one of those whole splits for it.

    Raises:
        InputError: for a slice that cannot be taken, and for splits of different columns.
    """
    where, name = f"task {spec.name!r}, split {split!r}", spec.splits[split]
    splits: dict[str, Found] = {}
    for own in dict.fromkeys(own_splits(name)):
        found = load(dataclasses.replace(spec, splits={**spec.splits, split: own}))
        assert found is not None
        splits[own] = found
    try:
        slices = slices_of(name, {own: len(rows) for own, (rows, *_) in splits.items()})
    except ValueError as error:
        raise InputError(f"{where}: the slice {name!r} cannot be taken: {error}") from error
    numbers: list[NDArray[np.int64]] = []
    num_rows = 0
    parts, faults = [], TextFaults()
    for own, first, end in slices:
        rows, own_faults, _ = splits[own]
        parts.append(rows.select(range(first, end) if first < end else []))
        moved = num_rows - first
        faults.update({(row + moved, c): fault for (row, c), fault in own_faults.items() if first <= row < end})
        numbers.append(numbers_of_rows(rows, np.arange(first, end)))
        num_rows += end - first
    try:
        joined = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{where}: the slices {name!r} are of splits that do not go together: {reason}") from error
    if len(splits) > 1:  # their rows are not numbered together
        return joined, faults
    ((rows, *_),) = splits.values()
    return set_files(joined, files_of(rows), np.concatenate(numbers)), faults
