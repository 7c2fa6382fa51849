"""The one reader of tables: csv, tsv, JSON, parquet, Arrow and plain text come in as records.

Training and prediction share it. A file is read once, from its beginning, in little memory. Rows are counted from 0,
without the header and blank lines.
"""

from __future__ import annotations

import csv
import logging
import re
import sys
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice, tee
from threading import Lock
from typing import Any

import pyarrow  # type: ignore[import-untyped]

from ..errors import InputError
from .arrow_files import ARROW_FORMATS, open_batches
from .json_values import json_values, table_in
from .text_files import UNQUOTED, RowError, Text, bare, open_text

logger = logging.getLogger(__name__)
DELIMITERS = {"csv": ",;\t|", "tsv": "\t,;|"}  # the usual one comes first
DOUBLED = "quotes inside a cell are doubled, not escaped by \\"
HEADER_LINES = 100  # that the names of columns, if quoted, may go on over
SEP = re.compile(r'"?sep=(.)"?', re.I)  # Excel's first line
Record = dict[str, Any]
_FIELD_LIMIT = Lock()  # csv's limit is one for the whole process


def read_records(
    path: str, form: str, wanted: Sequence[Sequence[str]] = (), encoding: str | None = None
) -> Generator[Record]:
    """The rows of a file, one at a time, by column.

    Cells of csv and tsv are text as it is written, None where they are empty; values of other files are what the file
    has. A column that JSON's row lacks is missing from its record. A txt file's lines are its column "text".

    Args:
        path: of a file, gzipped or not, or "-" for standard input.
        form: one of `text_files.FORMATS`; "json" and "jsonl" are read by what is in them.
        wanted: sets of columns, the best one first. The delimiter of csv or tsv is the one whose header has such a set.
        encoding: of csv, tsv, JSON and txt, the name of a Python codec; UTF-8 unless given.

    Raises:
        InputError: for what is not of the format; it names the file and the row.
    """
    number, wanted, is_arrow = 0, [names for names in wanted if names], form in ARROW_FORMATS
    try:
        for record in _arrow_records(path, form) if is_arrow else _text_records(path, form, wanted, encoding):
            yield record
            number += 1
    except RowError as error:
        raise InputError(f"{path!r}: row {number} (the first row is 0) {error}") from error
    except InputError as error:
        raise InputError(f"{path!r}: {error}") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path!r}: cannot be read: {reason}") from error


def text_fault(value: Any) -> str | None:
    """What is wrong with a cell that is to be a text; None for a text that can be written."""
    if value is None:
        return "has no text"
    if not isinstance(value, str):
        return f"holds {_short(value)} instead of text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"holds half a surrogate pair, {_short(value)}, instead of text"
    return None


def _short(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= 80 else f"{found[:77]}..."


def _text_records(path: str, form: str, wanted: Sequence[Sequence[str]], encoding: str | None) -> Iterator[Record]:
    with open_text(path, encoding) as text:
        if form == "txt":
            yield from ({"text": bare(line)} for line in text)
        elif form in DELIMITERS:
            yield from _delimited_records(path, iter(text), form, wanted)
        else:
            yield from _json_records(text, form, wanted)


def _json_records(text: Text, form: str, wanted: Sequence[Sequence[str]]) -> Iterator[Record]:
    values, is_array = json_values(text)
    ahead = list(islice(values, 0 if is_array else 1))  # an item of an array is a row, whatever is in it
    if ahead and (table := table_in(ahead[0], wanted, lists=form == "json")) is not None:
        ahead += islice(values, 1)
        ahead = table if len(ahead) == 1 else ahead
    for value in chain(ahead, values):
        if not isinstance(value, dict):
            raise RowError(f"is no JSON object, found {_short(value)}")
        yield value


def _delimited_records(path: str, lines: Iterator[str], form: str, wanted: Sequence[Sequence[str]]) -> Iterator[Record]:
    try:
        delimiter, lines = _delimiter(path, lines, form, wanted)
        rows = _rows(lines, form, delimiter)
        names = next(rows, [])
    except RowError as error:
        raise InputError(f"the header {error}") from error
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise InputError(f"the header has the column {twice[0]!r} twice; rename one of them")
    if "\0" in "".join(names):
        raise InputError("the header has a NUL character; wanted plain text")
    told = form == "csv"
    for number, cells in enumerate(rows):
        if len(cells) != len(names):
            more = f"; {UNQUOTED}" if form == "tsv" and '"' in "".join([*names, *cells]) else ""
            more = f"; {DOUBLED}" if form == "csv" and any(cell.endswith("\\") for cell in cells) else more
            raise RowError(f"has {len(cells)} cells, the header has {len(names)}: {', '.join(names)}{more}")
        if not told and any(map(_seems_quoted, cells)):
            told = True
            logger.warning("%r: row %d (the first row is 0) has a cell that seems quoted; %s", path, number, UNQUOTED)
        yield {name: cell or None for name, cell in zip(names, cells, strict=True) if name}


def _seems_quoted(cell: str) -> bool:
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]


def _delimiter(
    path: str, lines: Iterator[str], form: str, wanted: Sequence[Sequence[str]]
) -> tuple[str, Iterator[str]]:
    """The delimiter, and the lines from the header on.

    It is what Excel's line "sep=;" names; else the one whose header has a set of columns that is wanted; else the first
    that parts the header at all.
    """
    first = next((line for line in lines if line.strip("\r\n")), "")
    if form == "csv" and (named := SEP.fullmatch(first.strip())):
        return named[1], lines
    rest, *copies = tee(chain([first] if first else [], lines), 1 + len(DELIMITERS[form]))
    columns = {
        mark: _names(islice(copy, HEADER_LINES), form, mark)
        for mark, copy in zip(DELIMITERS[form], copies, strict=True)
    }
    fitting = (mark for names in wanted for mark, found in columns.items() if set(names) <= set(found))
    delimiter = next(fitting, None) or max(columns, key=lambda mark: len(columns[mark]) > 1)
    if delimiter != DELIMITERS[form][0]:
        logger.warning("%r: columns are told apart by %r, not %r", path, delimiter, DELIMITERS[form][0])
    return delimiter, rest


def _names(lines: Iterator[str], form: str, delimiter: str) -> list[str]:
    """The header that a delimiter gives; none where it gives no csv."""
    try:
        return next(_rows(lines, form, delimiter), [])
    except RowError as error:
        if isinstance(error.__cause__, csv.Error):
            return []
        raise


def _rows(lines: Iterator[str], form: str, delimiter: str) -> Iterator[list[str]]:
    """The cells of every line that is not blank: of csv as in RFC 4180, of tsv without quoting.

    In tsv files such as GLUE's a quote is a character; read as csv, one that opens a field would swallow rows.
    """
    if form == "tsv":
        yield from (text.split(delimiter) for line in lines if (text := bare(line)))
        return
    read = _Remembered(lines)
    try:
        yield from filter(None, _csv_rows(read, delimiter))
    except csv.Error as error:
        reason = "a quote opens and is never closed" if "unexpected end" in str(error) else str(error).split(" - ")[0]
        more = f"; {DOUBLED}" if '\\"' in read.last else ""
        raise RowError(f"is no csv: {reason}{more}") from error


class _Remembered:
    """Lines, of which the last that was read is known."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.last = lines, ""

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.last = line
            yield line


def _csv_rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of every line of csv. Raises csv's field limit, 131,072 characters, only while a row is parsed."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        with _FIELD_LIMIT:
            before = csv.field_size_limit(sys.maxsize)
            try:
                cells = next(reader, None)
            finally:
                csv.field_size_limit(before)
        if cells is None:
            return
        yield cells


def _arrow_records(path: str, form: str) -> Iterator[Record]:
    with open_batches(path, form, rows=1024) as (schema, batches):
        for batch in batches:
            for values in zip(*map(cell_values, batch.columns), strict=True):
                yield dict(zip(schema.names, values, strict=True))


def plain(column: Any) -> Any:
    """An Arrow column without a dictionary or views; as bytes, where it holds strings that are no UTF-8."""
    types = pyarrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_string_view(column.type):
        column = column.cast(pyarrow.large_string())
    if types.is_binary_view(column.type):
        column = column.cast(pyarrow.large_binary())
    if _is_list(column.type) and _is_unusual_text(column.type.value_type):
        with suppress(pyarrow.ArrowInvalid):  # of bytes that are no UTF-8
            column = column.cast(pyarrow.large_list(pyarrow.large_string()))
    if types.is_string(column.type) or types.is_large_string(column.type):
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid:
            column = column.cast(pyarrow.large_binary())
    return column


def _is_list(kind: Any) -> bool:
    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_unusual_text(kind: Any) -> bool:
    """Whether a type holds strings in another way than strings."""
    types = pyarrow.types
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(is_bytes or types.is_string_view(kind) or types.is_dictionary(kind))


def cell_values(column: Any) -> list[Any]:
    """The values of an Arrow column; bytes as text, where they are UTF-8."""
    return [_decoded(value) if isinstance(value, bytes) else value for value in plain(column).to_pylist()]


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
