"""The rows that a user hands the trainer, by task, checked once.

They have the columns that `tokenize` makes, tokens that the encoder knows, and labels that the task declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from ..errors import InputError, unknown_name_error
from ..model.encoding import NO_LABEL, SEQUENCE_LENGTHS, WORD_NUMBERS
from ..tasks.column_slices import AT_ONCE
from ..tasks.kinds import kind_of
from ..tasks.spec import TaskSpec
from ..tasks.text_files import columns_but

WAY = "load_task_data(tasks, tokenizer, max_length=...) makes such rows"
TAKEN = ("task", "batches")  # what the model's forward calls something else


def rows_by_task(given: object, tasks: Sequence[str], argument: str, *, others: bool = False) -> dict[str, Any]:
    """Task -> what was given for it, in the order of `tasks`; bare rows are those of the only task.

    Args:
        given: `{task: rows}`, or rows where there is one task.
        tasks: the names of the trainer's tasks.
        argument: what the user calls it, for messages.
        others: pass over rows of tasks that the trainer has not, where all its own have some.

    Raises:
        InputError: for anything else, no task at all, and a name that is no task.
    """
    if not isinstance(given, Mapping):
        if len(tasks) == 1:
            return {tasks[0]: given}
        raise InputError(f"{argument} is a {type(given).__name__}, wanted {{task: rows}} for {', '.join(tasks)}")
    if not given:
        raise InputError(f"{argument} is empty, wanted {{task: rows}} for one or more of {', '.join(tasks)}")
    if not (others and given.keys() >= set(tasks)):
        for name in given:
            if name not in tasks:
                raise unknown_name_error(f"task in {argument}:", name, tasks)
    return {task: given[task] for task in tasks if task in given}


def checked_rows(
    rows: object,
    spec: TaskSpec,
    argument: str,
    *,
    vocab_size: int | None,
    positions: int | None,
    inputs: Sequence[str],
    labelled: bool,
) -> Dataset:
    """Rows of one task that can be batched and scored, with labels in the dtype of the task's kind.

    Args:
        rows: what the user gave for the task.
        spec: the task.
        argument: what the user calls the rows, for messages.
        vocab_size: number of the encoder's token ids; None where any will do.
        positions: the most tokens that the encoder takes; None where any number will do.
        inputs: columns that are padded with the tokens; none where a collator of the user's makes the batches, which
            may take columns of any kind.
        labelled: whether every row needs a label; else a row without one has NaN.

    Raises:
        InputError: for what is no `Dataset`, and for the first column or row that cannot be used.
    """
    where = f"task {spec.name!r}: {argument}"
    if not isinstance(rows, Dataset):
        raise InputError(f"{where} {_what_it_is(rows)}")
    if len(rows) == 0:
        raise InputError(f"{where} has no rows of it")
    if rows.format["type"] == "custom":
        raise InputError(f"{where}: the rows have a transform (set_transform), which would not be applied; use map")
    table = rows.with_format("arrow")[:]
    if not labelled and (filled := _with_labels_of_tokens(table)) is not table:
        table, rows = filled, Dataset(filled.replace_schema_metadata())
    of_tokens = ["input_ids", *([WORD_NUMBERS] if kind_of(spec).head.takes_words else [])]
    _check_names(table.column_names, where, of_tokens if inputs else [], labelled)
    if inputs:
        _check_columns(table, where, inputs)
        for start in range(0, len(table), AT_ONCE):
            part = table.slice(start, AT_ONCE).combine_chunks()
            lengths = _check_lengths(part, where, start, inputs)
            _check_positions(_longest_sequences(part, lengths, where, start), where, start, positions)
            _check_tokens(part["input_ids"], where, start, vocab_size)
    if "labels" not in table.column_names:
        return rows
    labels = kind_of(spec).check_labels(spec, table["labels"].combine_chunks(), where, labelled=labelled)
    pa.default_memory_pool().release_unused()  # of many rows, Arrow would keep it for a while
    if labels is None:
        return rows
    place, column = table.column_names.index("labels"), pa.array(labels if labels.ndim == 1 else list(labels))
    return Dataset(table.set_column(place, "labels", column).replace_schema_metadata())


def _with_labels_of_tokens(table: pa.Table) -> pa.Table:
    """Rows of words with -100 for every token of those that have no labels; no such column where none has any."""
    if WORD_NUMBERS not in table.column_names or not _null_count(table, "labels"):
        return table
    labels = table["labels"]
    if labels.null_count == len(labels):
        return table.drop_columns(["labels"])
    if "input_ids" not in table.column_names or not (_is_list(labels.type) and _is_list(table["input_ids"].type)):
        return table  # is refused
    numbers = zip(labels.to_pylist(), table["input_ids"].to_pylist(), strict=True)
    cells = [[NO_LABEL] * len(ids or ()) if cell is None else cell for cell, ids in numbers]
    return table.set_column(table.column_names.index("labels"), "labels", pa.array(cells, labels.type))


def _what_it_is(rows: object) -> str:
    if isinstance(rows, DatasetDict):
        return f"is a DatasetDict, wanted one of its splits: {', '.join(rows)}"
    return (
        f"is a {type(rows).__name__}, wanted a datasets.Dataset; Dataset.from_list, from_pandas and from_generator "
        "make one of other rows"
    )


def _check_names(columns: Sequence[str], where: str, tokens: Sequence[str], labelled: bool) -> None:
    """Raise InputError unless the columns that every row needs are there."""
    wanted = [*tokens, "length", *(["labels"] if labelled else [])]
    missing = [name for name in wanted if name not in columns]
    if not missing:
        return
    way, other = WAY, next((name for name in ("label", "label_ids") if name in columns), None)
    if missing == ["labels"]:
        way = "they come from " + WAY.removesuffix(" makes such rows") + "; trainer.predict takes rows without labels"
        if other is not None:
            way = f"if {other!r} holds class indices or values, rows.rename_column({other!r}, 'labels')"
    there = columns_but(missing[0], columns)
    raise InputError(f"{where} has no column {', '.join(map(repr, missing))}; {there}; {way}")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in lists) and _is_number(kind.value_type)


def _check_columns(table: pa.Table, where: str, inputs: Sequence[str]) -> None:
    """Raise InputError, with the columns to leave out, where some cannot become a tensor."""
    bad, padded = {}, {*inputs, SEQUENCE_LENGTHS, WORD_NUMBERS}
    if WORD_NUMBERS in table.column_names:
        padded.add("labels")
    for name in table.column_names:
        kind, column = table.schema.field(name).type, table[name]
        if name in TAKEN:
            bad[name] = "which the model calls something else"
        elif not (_is_list(kind) or _is_number(kind)) and name != "labels":
            bad[name] = str(kind)
        elif column.null_count and name != "labels":
            bad[name] = f"no value in row {_first(column.is_null())}"
        elif _is_list(kind) and name not in padded and np.ptp(_lengths(column.drop_null())):
            bad[name] = "lists of unequal length"
    needed = [name for name in bad if name in ("input_ids", "length")]
    if needed:
        raise InputError(f"{where}: column {needed[0]!r} holds {bad[needed[0]]}; {WAY}")
    if bad:
        named = ", ".join(f"{name!r} ({why})" for name, why in bad.items())
        raise InputError(
            f"{where}: columns that cannot go into a batch of numbers: {named}; rows.remove_columns({list(bad)!r}) "
            "leaves them out"
        )


def _lengths(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """How long the lists of a column are. *Shape:* (rows,)"""
    return np.asarray(pc.list_value_length(column).to_numpy(), dtype=np.int32)


def _first(flags: Any) -> int:
    """Where the first true one stands."""
    return int(np.argmax(np.asarray(flags)))


def _check_lengths(table: pa.Table, where: str, start: int, inputs: Sequence[str]) -> NDArray[np.int32]:
    """Tokens of each row; InputError for one without any, or of which another column is for more or fewer.

    `start` is the number of the first row. *Shape:* (rows,)
    """
    kind = table.schema.field("input_ids").type
    if not _is_list(kind) or not pa.types.is_integer(kind.value_type):
        raise InputError(f"{where}: column 'input_ids' holds {kind}, wanted lists of token ids; {WAY}")
    of_rows = _lengths(table["input_ids"])
    if not of_rows.all():
        raise InputError(f"{where}: row {start + _first(of_rows == 0)} (the first row is 0) has no tokens; {WAY}")
    labels = ["labels"] if WORD_NUMBERS in table.column_names and not _null_count(table, "labels") else []
    per_token = [name for name in (*inputs, WORD_NUMBERS, *labels) if name in table.column_names]
    for name in [*(name for name in per_token if _is_list(table[name].type)), "length"]:
        found = np.asarray(table[name].to_numpy()) if name == "length" else _lengths(table[name])
        if (found != of_rows).any():
            row = _first(found != of_rows)
            raise InputError(
                f"{where}: in row {start + row} (the first row is 0), {name!r} is for {found[row]} tokens and there "
                f"are {of_rows[row]}; {WAY}"
            )
    return of_rows


def _null_count(table: pa.Table, name: str) -> int:
    return int(table[name].null_count) if name in table.column_names else 0


def _longest_sequences(table: pa.Table, lengths: NDArray[np.int32], where: str, start: int) -> NDArray[np.int32]:
    """The tokens of each row's longest sequence; InputError where sequences are not all of a row. *Shape:* (rows,)"""
    if SEQUENCE_LENGTHS not in table.column_names:
        return lengths
    column = table[SEQUENCE_LENGTHS].combine_chunks()
    values, counts = column.flatten().to_numpy(), np.asarray(pc.list_value_length(column))
    begins, fits = (np.cumsum(counts) - counts)[counts > 0], np.zeros(len(column), bool)
    sums, least = np.add.reduceat(values, begins), np.minimum.reduceat(values, begins)
    fits[counts > 0] = (least > 0) & (sums == lengths[counts > 0])
    if not fits.all():
        row = _first(~fits)
        raise InputError(
            f"{where}: in row {start + row} (the first row is 0), {SEQUENCE_LENGTHS!r} is {column[row].as_py()} and "
            f"there are {lengths[row]} tokens; {WAY}"
        )
    return np.asarray(np.maximum.reduceat(values, begins), dtype=np.int32)


def _check_positions(longest: NDArray[np.int32], where: str, start: int, positions: int | None) -> None:
    """Raise InputError for the first row that is longer than the encoder takes."""
    if positions is not None and longest.max() > positions:
        row = _first(longest > positions)
        raise InputError(
            f"{where}: row {start + row} (the first row is 0) has {longest[row]} tokens, and the encoder takes "
            f"{positions}; cut in tokenize, by max_length"
        )


def _check_tokens(ids: pa.ChunkedArray, where: str, start: int, vocab_size: int | None) -> None:
    """Raise InputError for the first row that has tokens that the encoder lacks."""
    most, flat = np.inf if vocab_size is None else vocab_size - 1, ids.combine_chunks().flatten().to_numpy()
    if flat.min() < 0 or flat.max() > most:
        bad = _first((flat < 0) | (flat > most))
        row = start + int(np.searchsorted(np.cumsum(_lengths(ids)), bad, side="right"))
        raise InputError(
            f"{where}: row {row} (the first row is 0) has the token id {flat[bad]}, and the encoder has "
            f"{vocab_size} of them, from 0; the rows were made with another encoder's tokenizer"
        )
