"""Files as Arrow tables, in which a text column holds strings and no other value is changed."""

from __future__ import annotations

import json
import logging
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow  # type: ignore[import-untyped]
from datasets import ClassLabel, Dataset, Features
from datasets.fingerprint import generate_random_fingerprint
from datasets.table import InMemoryTable

from ..errors import InputError
from .arrow_files import ARROW_FORMATS, open_batches
from .cells import listed
from .label_column import item_feature
from .tables import Record, cell_values, plain, read_records, text_fault
from .text_files import format_of

logger = logging.getLogger(__name__)
CHUNK = 4096  # rows
MANY = 1000  # columns
NOT_ARROW = (pyarrow.ArrowException, OverflowError, ValueError, TypeError, RecursionError)  # of values
# What `datasets` raises for a type that it has no name for.
NO_FEATURE = (ValueError, TypeError, KeyError, NotImplementedError, pyarrow.ArrowException)
TextFaults = dict[tuple[int, str], str]  # row and column -> what is wrong with the text there
NOT_SAVED = (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException)  # of a damaged folder


class Columns(NamedTuple):
    """What a task reads in the columns of a table.

    Attributes:
        texts: columns of strings. A value that is no string is left out, and told.
        labels: columns of labels. With `texts`, they tell the delimiter of csv and tsv.
        lists: columns whose cells may be lists. Where some are, any other value is a list of one.
        delimited: columns of names in a text. Where csv and tsv have any, an empty cell is a row without names.
        others: columns that are neither, such as that of groups.
        encoding: of files of text, the name of a Python codec; UTF-8 unless given.
    """

    texts: Sequence[str]
    labels: Sequence[str] = ()
    lists: Sequence[str] = ()
    delimited: Sequence[str] = ()
    others: Sequence[str] = ()
    encoding: str | None = None


def read_files(paths: Sequence[str], columns: Columns) -> tuple[Dataset, TextFaults, list[tuple[str, int]]]:
    """The rows of files, one after the other; what is wrong with the texts of which; and the first row of each file.

    Args:
        paths: files, or folders of saved datasets, of the same columns.
        columns: those that the task reads.

    Raises:
        InputError: for a file that cannot be read, and for files that do not belong together.
    """
    faults: TextFaults = {}
    tables: list[tuple[str, Any]] = []
    first_rows: list[tuple[str, int]] = []
    rows = 0
    for number, path in enumerate(paths):
        table, found = _read_file(path, columns)
        faults.update({(row + rows, column): fault for (row, column), fault in found.items()})
        first_rows.append((path, rows))
        rows += len(table)
        if len(table) or (number == len(paths) - 1 and not tables):
            tables.append((path, table))
    for column in columns.delimited:
        tables = _with_empty_lists(tables, column)
    try:
        return table_rows(_joined(tables, columns.lists)), faults, first_rows
    except TypesError as error:
        raise InputError(f"{', '.join(map(repr, paths))}: its {error}") from error


class TypesError(InputError):
    """Columns of types that `datasets` has no name for."""


def table_rows(table: Any) -> Dataset:
    """An Arrow table as a `Dataset`; TypesError where that cannot be."""
    try:
        # Its own fingerprint would be a hash of a copy of all rows.
        return Dataset(InMemoryTable(table), fingerprint=generate_random_fingerprint())
    except NO_FEATURE as error:
        for field in table.schema:
            _check_type(field)
        raise TypesError(f"types cannot be used: {_first_line(error)}") from error


def _check_type(field: Any) -> None:
    """Raise TypesError for a column of a type that `datasets` has no name for."""
    try:
        Features.from_arrow_schema(pyarrow.schema([field]))
    except NO_FEATURE as error:
        raise TypesError(
            f"column {field.name!r} is of type {field.type}, which cannot be used; leave it out, or make it text"
        ) from error


def first_names(path: str, columns: Columns) -> list[str]:
    """The columns of a file's first row, as a task that reads `columns` finds them; none of a file without rows."""
    form = format_of(path)
    assert form is not None
    return list(next(read_records(path, form, _wanted(columns), columns.encoding), ()))


def _wanted(columns: Columns) -> tuple[Sequence[str], Sequence[str]]:
    """The sets of columns by which a file is known to be read rightly, the best one first."""
    return [*columns.texts, *columns.labels], columns.texts


def _read_file(path: str, columns: Columns) -> tuple[Any, TextFaults]:
    form = format_of(path)
    if Path(path).is_dir():
        return _read_saved(path, columns)
    assert form is not None
    if form not in ARROW_FORMATS:
        wanted = _wanted(columns)
        records = read_records(path, form, wanted, columns.encoding)
        return to_table(_known_columns(path, records, [*wanted[0], *columns.others]), columns)
    try:
        return with_texts(_mapped(path, form), columns.texts)
    except InputError as error:
        raise InputError(f"{path!r}: {error}") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise InputError(f"{path!r}: cannot be read: {_first_line(error)}") from error


def _read_saved(folder: str, columns: Columns) -> tuple[Any, TextFaults]:
    """What `save_to_disk` wrote into a folder."""
    try:
        rows = Dataset.load_from_disk(folder).with_format("arrow")
        return with_texts(rows[:], columns.texts)
    except NOT_SAVED as error:
        raise InputError(f"{folder!r}: cannot be read as a saved dataset: {_first_line(error)}") from error


def _with_empty_lists(tables: list[tuple[str, Any]], column: str) -> list[tuple[str, Any]]:
    """Files with their tables, where empty cells of csv and tsv in a column are empty texts, unless all of them are.

    Says how many there are in each file.
    """
    cells = {
        path: table[column].to_pylist()
        for path, table in tables
        if format_of(path) in ("csv", "tsv") and column in table.column_names
    }
    if not any(cell and cell.strip() for of_file in cells.values() for cell in of_file):
        return tables
    found = []
    for path, table in tables:
        if num_empty := cells.get(path, []).count(None):
            message = "%r: %d of %d rows have an empty cell in column %r: they are rows without labels"
            logger.info(message, path, num_empty, len(table), column)
            texts = pyarrow.array([cell or "" for cell in cells[path]], pyarrow.string())
            table = table.set_column(table.column_names.index(column), column, texts)
        found.append((path, table))
    return found


def _known_columns(path: str, records: Iterable[Record], wanted: Sequence[str]) -> Iterator[Record]:
    """The records; where they have more than `MANY` columns, further ones are left out.

    The table of rows that each have a key of their own would be as wide as it is long.
    """
    names: dict[str, None] = dict.fromkeys(wanted)
    told = False
    for record in records:
        new = record.keys() - names
        if new and len(names) + len(new) > max(MANY, len(record) + len(wanted)):
            if not told:
                told = True
                logger.warning("%r: rows have more than %d different columns; further ones are left out", path, MANY)
            record = {name: value for name, value in record.items() if name in names}
        else:
            names.update(dict.fromkeys(record))
        yield record


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def to_table(records: Iterable[Record], columns: Columns) -> tuple[Any, TextFaults]:
    """Records as an Arrow table with the columns of all of them, null where one lacks a column; and bad texts.

    A column that Arrow has no type for holds texts: strings as they are, anything else as JSON. Where some cells of
    `columns.lists` are lists, all become lists, of such texts where Arrow has no other type for them.
    """
    chunks: dict[str, list[Any]] = {}
    faults: TextFaults = {}
    rows, records = 0, iter(records)
    while chunk := list(islice(records, CHUNK)):
        names = dict.fromkeys(name for record in chunk for name in record)
        for name in names:
            chunks.setdefault(name, [pyarrow.nulls(rows)])
        for name, parts in chunks.items():
            values = [record.get(name) for record in chunk]
            if name in columns.texts:
                values = _texts(name, values, rows, faults)
            kind = pyarrow.string() if name in columns.texts else None
            parts += _arrays(values, kind, lists=name in columns.lists)
        rows += len(chunk)
    return pyarrow.table({name: _unified(parts, lists=name in columns.lists) for name, parts in chunks.items()}), faults


def _texts(column: str, values: list[Any], first: int, faults: TextFaults) -> list[str | None]:
    """The values that are texts, None for others; `faults` gets what is wrong with these. `first` is a row's number."""
    bad = {row: fault for row, value in enumerate(values) if value is not None and (fault := text_fault(value))}
    faults.update({(row + first, column): f"column {column!r} {fault}" for row, fault in bad.items()})
    return [None if row in bad else value for row, value in enumerate(values)] if bad else values


def _arrays(values: list[Any], kind: Any = None, *, lists: bool = False) -> list[Any]:
    """Values as Arrow arrays of one type."""
    try:
        array = pyarrow.array(values, kind)
    except NOT_ARROW:
        if lists and any(isinstance(value, list | tuple) for value in values):
            array = _list_array(values)
        else:
            array = pyarrow.array(list(map(_as_text, values)), pyarrow.string())
    return array.chunks if isinstance(array, pyarrow.ChunkedArray) else [array]


def _list_array(values: list[Any]) -> Any:
    """Values as an Arrow array of lists, in which any other value is a list of one."""
    lists = [list(value) if isinstance(value, list | tuple) else None if value is None else [value] for value in values]
    try:
        return pyarrow.array(lists)
    except NOT_ARROW:
        texts = [None if items is None else list(map(_as_text, items)) for items in lists]
        return pyarrow.array(texts, pyarrow.list_(pyarrow.string()))


def _as_text(value: Any) -> str | None:
    """A text, or None, as it is; else a value as JSON, or as Python writes it where JSON has no form for it."""
    if value is None or text_fault(value) is None:
        return value
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError):
        return ascii(value)


def _unified(parts: list[Any], *, lists: bool) -> Any:
    """Arrays one after the other, in a type that holds all of their values."""
    kinds = {part.type for part in parts if part.type != pyarrow.null()}
    if len(kinds) > 1:
        parts = _arrays([value for part in parts for value in cell_values(part)], lists=lists)
        return pyarrow.chunked_array(parts)
    kind = kinds.pop() if kinds else pyarrow.null()
    return pyarrow.chunked_array([part if part.type == kind else part.cast(kind) for part in parts], kind)


def _joined(tables: list[tuple[str, Any]], lists: Sequence[str]) -> Any:
    """The tables of files as one; `lists` are columns of lists."""
    (path, first), *others = tables
    for other, table in others:
        if set(table.column_names) != set(first.column_names):
            raise InputError(
                f"the files of one split have different columns: {path!r} has {listed(first.column_names)}; "
                f"{other!r} has {listed(table.column_names)}"
            )
        if _class_labels(table) != _class_labels(first):
            raise InputError(f"the files {path!r} and {other!r} of one split have different class names")
    if not others:
        return first
    parts = {name: [part for _, table in tables for part in table[name].chunks] for name in first.column_names}
    joined = pyarrow.table({name: _unified(arrays, lists=name in lists) for name, arrays in parts.items()})
    return joined.replace_schema_metadata(first.schema.metadata if _class_labels(first) else None)


def _class_labels(table: Any) -> dict[str, Any]:
    """Column -> the names of its classes, whether a cell is one of them or a list of them."""
    items = {name: item_feature(feature) for name, feature in Features.from_arrow_schema(table.schema).items()}
    return {name: item.names for name, item in items.items() if isinstance(item, ClassLabel)}


def _mapped(path: str, form: str) -> Any:
    """A parquet or Arrow file's table, memory-mapped from a file that goes when the table does."""
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    with open_batches(path, form) as (schema, batches), tempfile.NamedTemporaryFile(dir=folder) as copy:
        with pyarrow.ipc.new_stream(copy, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        copy.flush()
        return pyarrow.ipc.open_stream(pyarrow.memory_map(copy.name)).read_all()


def with_texts(table: Any, text_columns: Sequence[str]) -> tuple[Any, TextFaults]:
    """A table of plain types whose strings are UTF-8; and what is wrong with the texts that were not."""
    faults: TextFaults = {}
    for number, field in enumerate(table.schema):
        found = table.column(number)
        column = plain(found)
        if field.name in text_columns and _is_bytes(column.type):
            texts = _texts(field.name, cell_values(column), 0, faults)
            column = pyarrow.chunked_array(_arrays(texts, pyarrow.large_string()))
        if column is not found:
            table = table.set_column(number, field.name, column)
    return table, faults


def _is_bytes(kind: Any) -> bool:
    types = pyarrow.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))
