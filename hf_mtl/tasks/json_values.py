"""JSON values out of a text of any length: those of an array, or one after the other, as in JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .gzipped import BLOCK
from .text_files import RowError, Text

NEAR_THE_END = 64  # characters; a number, an escape or a word that is cut off is noticed no further from the end
SPACE = re.compile(r"[ \t\r\n]*")


def json_values(text: Text) -> tuple[Iterator[Any], bool]:
    """The items of the array that a text is, or else the values that it holds one after the other; whether it is one.

    Raises:
        RowError: for what is no JSON, a key twice in an object, and what Python cannot hold; also while it is read.
    """
    reader = _Reader(text)
    is_array = reader.peek() == "["
    return (_items if is_array else _values)(reader), is_array


def _values(reader: _Reader) -> Iterator[Any]:
    while reader.peek():
        yield reader.value()


def _items(reader: _Reader) -> Iterator[Any]:
    reader.at += 1
    if reader.peek() != "]":
        yield reader.value()
    while (mark := reader.peek()) == ",":
        reader.at += 1
        yield reader.value()
    if mark != "]":
        raise RowError("is not there: the JSON array goes on with neither a comma nor its end")
    reader.at += 1
    if reader.peek():
        raise RowError("is not there: something follows the end of the JSON array")


def table_in(value: Any, wanted: Sequence[Sequence[str]], *, lists: bool) -> list[Any] | None:
    """The rows of an object that is a whole table: under "data", or column by column; None for any other value.

    One that has a set of columns that is `wanted`, and something else than lists in them, is a row. So is an object of
    lists unless `lists`, as a single line of words and tags.
    """
    if not isinstance(value, dict) or not value:
        return None
    is_row = any(set(names) <= set(value) for names in wanted)
    if isinstance(data := value.get("data"), list) and not is_row and all(isinstance(row, dict) for row in data):
        return data
    columns = list(value.values())
    if lists and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):  # as of pandas
        return [{name: value[name][row] for name in value} for row in columns[0]]
    return None


class _Reader:
    """Takes values from the beginning of a text of which a part is at hand."""

    def __init__(self, text: Text) -> None:
        self.text, self.part, self.at = text, "", 0
        self.decoder = json.JSONDecoder(object_pairs_hook=_object)

    def peek(self) -> str:
        """The next character that is no white space; none at the end of the text."""
        while True:
            space = SPACE.match(self.part, self.at)
            assert space is not None
            self.at = space.end()
            if self.at < len(self.part) or not self.more():
                return self.part[self.at : self.at + 1]

    def more(self) -> bool:
        """Have at least twice as much of the text at hand, if there is more of it."""
        found = self.text.stream.read(max(BLOCK, len(self.part) - self.at))
        self.text.passed(self.part[: self.at])
        self.part, self.at = self.part[self.at :] + found, 0
        return bool(found)

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.part, self.at)
                break
            except json.JSONDecodeError as error:
                cut_off = error.pos >= len(self.part) - NEAR_THE_END or error.msg.startswith("Unterminated string")
                if cut_off and self.more():
                    continue
                self.text.check(self.part[self.at : error.pos + 1], self.part[: self.at])
                raise RowError(
                    f"is no JSON: {error.msg.removesuffix(' at')}, at its character {error.pos - self.at}"
                ) from error
            except RecursionError as error:
                raise RowError("is no JSON that can be read: it is nested too deep") from error
            except ValueError as error:
                raise RowError(f"is no JSON that can be read: {str(error).split(';')[0]}") from error
        whole = self.part[self.at : end]
        if not whole.isascii():
            self.text.check(whole, self.part[: self.at])
        self.at = end
        return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RowError(f"has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
