"""Raw rows that a user has in memory: a `Dataset`, a pandas DataFrame or a list of dicts, by task and split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas  # type: ignore[import-untyped]
import pyarrow  # type: ignore[import-untyped]
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from ..errors import InputError, unknown_name_error
from ..tasks.arrow_files import check_names
from ..tasks.columns import Columns, TextFaults, table_rows, to_table, with_texts
from ..tasks.spec import TaskSpec
from ..tasks.split_names import own_splits

GivenRows = Mapping[str, Any]  # the data's own name of a split -> its rows
WANTED = "a datasets.Dataset, a pandas DataFrame or a list of dicts"
NOT_ARROW = (pyarrow.ArrowException, OverflowError, TypeError, ValueError, NotImplementedError)


def rows_of_tasks(given: object, tasks: Sequence[TaskSpec]) -> dict[str, GivenRows]:
    """Task -> split -> what was given for it, with the types checked and nothing converted.

    Raises:
        InputError: for a name that is no task or no split, and for rows that are none of `WANTED`.
    """
    if given is None:
        return {}
    names = [spec.name for spec in tasks]
    if not isinstance(given, Mapping):
        raise InputError(
            f"rows is a {type(given).__name__}, wanted {{task: {{split: rows}}}} for {', '.join(names)}, e.g. "
            f"rows={{{names[0]!r}: {{'train': dataset}}}}"
        )
    for name in given:
        if name not in names:
            raise unknown_name_error("task in rows:", name, names)
    return {spec.name: _checked_splits(given[spec.name], spec) for spec in tasks if spec.name in given}


def _checked_splits(given: object, spec: TaskSpec) -> GivenRows:
    where = f"rows of task {spec.name!r}"
    if isinstance(given, IterableDatasetDict):
        raise InputError(f"{where} is an IterableDatasetDict, {_not_rows(given)}")
    if not isinstance(given, Mapping):
        raise InputError(f"{where} is a {type(given).__name__}, wanted {{split: rows}}, e.g. {{'train': dataset}}")
    named = [spec.splits.get(split, split) for split in ("train", "validation", "test")]
    known = list(dict.fromkeys(own for name in named for own in ([name] if name in given else own_splits(name))))
    if isinstance(given, DatasetDict):  # of somebody else's making, such as one with "unsupervised"
        given = {split: rows for split, rows in given.items() if split in known} or given
    for split, rows in given.items():
        if split not in known:
            raise unknown_name_error(f"split in {where}:", split, known)
        if not isinstance(rows, Dataset | pandas.DataFrame | list | tuple):
            raise InputError(f"{where}, split {split!r}: found a {type(rows).__name__}, {_not_rows(rows)}")
    return given


def _not_rows(rows: object) -> str:
    """What is wanted instead of rows that are none, and how to come by it."""
    if isinstance(rows, IterableDataset | IterableDatasetDict):
        return (
            f"whose rows come one by one and cannot be counted or shuffled; wanted {WANTED}: load it without "
            "streaming, or Dataset.from_list(list(rows)) of each split"
        )
    if isinstance(rows, Mapping):
        if any(isinstance(part, Dataset) for part in rows.values()):
            return f"wanted one of its splits: {', '.join(map(repr, rows))}"
        return f"wanted {WANTED}; Dataset.from_dict makes one of a dict of columns"
    if isinstance(rows, Iterator) or callable(rows):
        return f"wanted {WANTED}; list(rows) or Dataset.from_generator makes one of a generator"
    return f"wanted {WANTED}"


def memory_rows(rows: Any, columns: Columns) -> tuple[Dataset, TextFaults]:
    """The rows as a `Dataset`, and what is wrong with the texts of which.

    Args:
        rows: one of `WANTED`. Missing values of pandas are None.
        columns: those that tasks read.

    Raises:
        InputError: for rows that are no dicts, columns that are there twice, and a transform.
    """
    if isinstance(rows, Dataset):
        if rows.format["type"] == "custom":
            raise InputError("the rows have a transform (set_transform), which would not be applied; use map")
        return rows.with_format(None), {}
    if isinstance(rows, pandas.DataFrame):
        table, faults = _frame_table(rows, columns)
    else:
        _check_records(rows)
        table, faults = to_table(_plain(rows), columns)
    return table_rows(table), faults


def _check_records(rows: Sequence[Any]) -> None:
    """Raise InputError for the first row that is no dict of columns."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise InputError(f"row {number} (the first row is 0) is {row!r:.80}, wanted a dict of columns by name")


def _frame_table(frame: Any, columns: Columns) -> tuple[Any, TextFaults]:
    """A DataFrame's columns in Arrow's types, without its index; of mixed types, as those of records."""
    frame = frame.rename(columns=str)
    check_names(list(frame.columns))
    try:
        return with_texts(pyarrow.Table.from_pandas(frame, preserve_index=False), columns.texts)
    except NOT_ARROW:
        values = frame.astype(object)
        return to_table(_plain(values.where(frame.notna(), None).to_dict("records")), columns)


def _plain(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records of Python's own numbers, with None for what pandas calls missing."""
    return ({name: _plain_cell(value) for name, value in row.items()} for row in rows)


def _plain_cell(value: Any) -> Any:
    if not isinstance(value, float | np.generic | type(pandas.NA) | type(pandas.NaT)):
        return value
    if pandas.isna(value):
        return None
    is_time = isinstance(value, np.datetime64 | np.timedelta64)  # would be a bare number
    return value.item() if isinstance(value, np.generic) and not is_time else value
