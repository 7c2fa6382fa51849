"""Where a row comes from, and the error for rows whose text or label cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset

from ..errors import InputError
from .spec import TaskSpec, file_list

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


def set_files(rows: Dataset, files: FirstRows) -> Dataset:
    """The rows, which know from now on which files they came from; what is made of them does not."""
    rows.hf_mtl_files = files
    return rows


def files_of(rows: Dataset) -> FirstRows:
    """The files that rows came from, where that is known."""
    return getattr(rows, "hf_mtl_files", ())


def place_of(spec: TaskSpec, rows: Dataset, split: str, row: int) -> tuple[str, int]:
    """Where a row comes from, for messages, and its number there."""
    if files := [(path, first) for path, first in files_of(rows) if first <= row]:
        path, first = files[-1]
        return repr(path), row - first
    return source_of(spec, split), row


def source_of(spec: TaskSpec, split: str) -> str:
    """Where the rows of a split come from, for messages."""
    if spec.files:
        return ", ".join(map(repr, file_list(spec.files.get(split, ()))))
    if spec.dataset is None:
        return "the rows given"
    return f"{spec.dataset!r}, configuration {spec.config!r}"
