"""The texts, or lists of words, of an input file, one row after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from ..errors import InputError
from ..model.pipeline_inputs import Texts, Words
from ..tasks.arrow_files import ARROW_FORMATS
from ..tasks.cells import listed, spells_list
from ..tasks.tables import Record, read_records, text_fault
from ..tasks.tag_column import OF_LISTS
from ..tasks.text_files import FORMATS, about_quotes, columns_but, format_of

USUAL_COLUMNS = (("text", "text_pair"), ("sentence1", "sentence2"), ("text",), ("sentence",), ("words",))


def file_format(path: str, named: str | None) -> str:
    """The format of an input: the one named, or that of its name; standard input is JSON lines unless named."""
    found = named or ("jsonl" if path == "-" else format_of(path))
    if found not in FORMATS:
        raise InputError(f"input {path!r} is none of {', '.join(FORMATS)}; name its format with --format")
    if path == "-" and found in ARROW_FORMATS:
        raise InputError(f"{found} cannot be read from standard input; wanted a file")
    return found


def read_texts(
    path: str,
    form: str,
    columns: Sequence[str] | None,
    encoding: str | None = None,
    *,
    tags_words: Callable[[], bool] = lambda: False,
) -> Generator[Texts]:
    """The texts, pairs or lists of words of an input, one at a time.

    Args:
        path: of a file, or "-" for standard input.
        form: one of `FORMATS`.
        columns: of the text or the words, or of the two texts; unless given, one of `USUAL_COLUMNS` that are there, or
            the only one.
        encoding: of a file of text, the name of a Python codec; UTF-8 unless given.
        tags_words: whether a task that tags words is to answer, which is asked where the first text spells a list.

    Raises:
        InputError: when there are no rows, or the columns are not there or hold no text and no words; it names the row.
            So it is for a first text that spells a list of words to be tagged.
    """
    chosen, number = tuple(columns or ()), -1
    try:
        with closing(read_records(path, form, (chosen,) if chosen else USUAL_COLUMNS, encoding)) as records:
            for number, record in enumerate(records):
                chosen = chosen or _usual_columns(path, list(record))
                if number == 0 and (absent := [column for column in chosen if column not in record]):
                    raise InputError(f"{path!r}: no column {absent[0]!r}; {columns_but(absent[0], record)}")
                if not columns and (second := _second_text(chosen, record)):
                    raise InputError(
                        f"{path!r}: row {number} (the first row is 0) has the column {second!r}, and row 0 has not; "
                        "name one column, or two for a pair, with --columns"
                    )
                for column in chosen:
                    if fault := _fault(record.get(column), words=len(chosen) == 1):
                        raise InputError(f"{path!r}: column {column!r} {fault} in row {number} (the first row is 0)")
                values = [record[column] for column in chosen]
                if number == 0 and len(values) == 1 and spells_list(values[0]) and tags_words():
                    raise InputError(
                        f"{path!r}: column {chosen[0]!r} holds the text {values[0]!r:.80} in row 0 (the first row is "
                        f"0), wanted a list of words, or a plain text; {OF_LISTS}"
                    )
                yield Words(values[0]) if isinstance(values[0], list) else tuple(values)
        if number < 0:
            raise InputError(f"{path!r} has no rows")
    except InputError as error:
        raise InputError(f"input {error}") from error


def _fault(value: Any, *, words: bool) -> str | None:
    """What is wrong with a cell that is to be a text or, with `words`, a list of words."""
    if not words or not isinstance(value, list):
        return text_fault(value)
    return next(filter(None, map(text_fault, value)), None) if value else "has no words"


def _usual_columns(path: str, there: list[str]) -> tuple[str, ...]:
    for columns in USUAL_COLUMNS:
        if set(columns) <= set(there):
            return columns
    if len(there) == 1:
        return (there[0],)
    raise InputError(
        f"{path!r} has the columns {listed(there)}; name one, or two for a pair, with --columns{about_quotes(there)}"
    )


def _second_text(chosen: Sequence[str], record: Record) -> str | None:
    """The column of a row that makes a pair with the single text that was chosen."""
    pairs = (columns for columns in USUAL_COLUMNS if columns[:1] == chosen and len(columns) == 2)
    return next((second for _, second in pairs if record.get(second) is not None), None)
