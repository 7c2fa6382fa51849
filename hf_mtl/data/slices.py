"""The rows of a split that is slices of the data's own splits, with what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from datasets import Dataset, concatenate_datasets

from ..errors import InputError
from ..tasks.columns import TextFaults
from ..tasks.row_errors import files_of, number_of_row, set_files
from ..tasks.split_names import slices_of


class SliceError(InputError):
    """Slices that cannot be taken."""


class Found(NamedTuple):
    """The raw rows of a split, and what is wrong with the texts of which."""

    rows: Dataset
    faults: TextFaults


def sliced(name: str, splits: Mapping[str, Found]) -> Found:
    """The rows that a value of `splits` names, which know where they came from.

    Args:
        name: slices of one or more splits, such as "train[:90%]".
        splits: those splits, by the data's own names.

    Raises:
        SliceError: for a slice that cannot be taken, and for splits of different columns.
    """
    try:
        slices = slices_of(name, {split: len(found.rows) for split, found in splits.items()})
    except ValueError as error:
        raise SliceError(f"the slice {name!r} cannot be taken: {error}") from error
    numbers: dict[str, list[int]] = {split: [] for split in splits}
    parts, faults, num_rows = [], TextFaults(), 0
    for split, first, end in slices:
        found = splits[split]
        parts.append(found.rows.select(range(first, end) if first < end else []))
        faults.update({row - first + num_rows: fault for row, fault in found.faults.items() if first <= row < end})
        numbers[split] += [number_of_row(found.rows, row) for row in range(first, end)]
        num_rows += end - first
    try:
        rows = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise SliceError(f"the slices {name!r} are of splits that do not go together: {reason}") from error
    if len(splits) > 1:  # their rows are not numbered together
        return Found(rows, faults)
    ((split, found),) = splits.items()
    return Found(set_files(rows, files_of(found.rows), numbers[split]), faults)
