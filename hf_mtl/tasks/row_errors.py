"""Where a row comes from, and the error for rows whose text or label cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from .sources import file_list
from .spec import TaskSpec

FirstRows = Sequence[tuple[str, int]]  # files, and the number of the first row of each among the rows of all
RowErrors = dict[int, tuple[str, str]]  # row -> what is wrong with it, in words that go before and after where it is
SKIP_MISSING = "; missing_label: skip in the task file leaves rows without a label out"


def raise_first(spec: TaskSpec, rows: Dataset, split: str, bad: RowErrors) -> None:
    """Raise InputError for the first bad row."""
    if bad:
        hint = "" if split == "test" else "; --on_bad_row skip leaves such training and validation rows out"
        raise InputError(f"{told(spec, rows, split, min(bad), bad)}{hint}")


def told(spec: TaskSpec, rows: Dataset, split: str, row: int, bad: RowErrors) -> str:
    """What is wrong with a bad row, and where the row is."""
    source, number = place_of(spec, rows, split, row)
    before, after = bad[row]
    return f"task {spec.name!r}, split {split!r}: {before} in row {number} (the first row is 0) of {source}{after}"


def set_files(rows: Dataset, files: FirstRows, numbers: NDArray[np.int64] | None = None) -> Dataset:
    """The rows, which know from now on where they came from; what is made of them does not, but by `selected`.

    Args:
        rows: of one or more files.
        files: see `FirstRows`.
        numbers: of each row, among those of all the files; they are all there, in order, unless given.
            *Shape:* (rows,)
    """
    rows.hf_mtl_files, rows.hf_mtl_numbers = files, numbers
    return rows


def files_of(rows: Dataset) -> FirstRows:
    """The files that rows came from, where that is known."""
    return getattr(rows, "hf_mtl_files", ())


def numbers_of_rows(rows: Dataset, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers that the rows at these places had before rows were chosen. *Shape:* that of `places`"""
    numbers: NDArray[np.int64] | None = getattr(rows, "hf_mtl_numbers", None)
    return places if numbers is None else numbers[places]


def selected(rows: Dataset, indices: Sequence[int] | NDArray[np.int64]) -> Dataset:
    """Some of the rows, which know where they came from as those do."""
    places = np.asarray(indices, dtype=np.int64)
    return set_files(rows.select(places), files_of(rows), numbers_of_rows(rows, places))


def place_of(spec: TaskSpec, rows: Dataset, split: str, row: int) -> tuple[str, int]:
    """Where a row comes from, for messages, and its number there."""
    number = int(numbers_of_rows(rows, np.array([row]))[0])
    if files := [(path, first) for path, first in files_of(rows) if first <= number]:
        path, first = files[-1]
        return repr(path), number - first
    return source_of(spec, split), number


def source_of(spec: TaskSpec, split: str) -> str:
    """Where the rows of a split come from, for messages."""
    if spec.files:  # a split of none is a part of another one
        named = [spec.files[split]] if split in spec.files else spec.files.values()
        return ", ".join(repr(path) for entries in named for path in file_list(entries))
    if spec.dataset is None:
        return "the rows given"
    return f"{spec.dataset!r}, configuration {spec.config!r}"
