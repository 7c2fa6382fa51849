"""Files of text: the format that a name ends in, and what is in one, gzipped or not, checked to fit its encoding."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .cells import listed
from .class_names import nearest
from .gzipped import open_unzipped
from .text_encoding import error_handler, misfit, num_bytes, stream_codec

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "arrow", "txt")
PACKED = (".zip", ".bz2", ".xz", ".lzma", ".zst", ".lz4", ".7z", ".rar", ".tar", ".tgz", ".tar.gz")
UNQUOTED = "tsv is read without quoting; save a table whose cells are quoted as .csv"


def format_of(path: str) -> str | None:
    """The format that a file's name ends in, where it is one of `FORMATS`; ".gz" may follow it."""
    suffix = Path(path.lower().removesuffix(".gz")).suffix.removeprefix(".").replace("ndjson", "jsonl")
    return suffix if suffix in FORMATS else None


def is_packed(path: str) -> bool:
    """Whether a file's name ends as those of compressed files do that are not read."""
    return path.lower().endswith(PACKED)


class RowError(Exception):
    """What is wrong with the row that is being read, in words that go after its number."""


@dataclass
class Text:
    """A file's text.

    Attributes:
        stream: where bytes that do not fit the codec come as surrogates, which no text has.
        offset: bytes before the text that is read next.
        codec: that decodes the file.
    """

    stream: io.TextIOWrapper
    offset: int
    codec: str

    def __iter__(self) -> Iterator[str]:
        """The lines, with their ends; RowError for one that does not fit the codec."""
        for line in self.stream:
            self.check(line)
            self.offset += num_bytes(line, self.codec)
            yield line

    def check(self, text: str, before: str = "") -> None:
        """Raise RowError for the first byte that does not fit; `before` is what is between `offset` and the text."""
        if text.isascii():
            return
        if fault := misfit(text, self.codec, self.offset + num_bytes(before, self.codec)):
            raise RowError(fault)

    def passed(self, text: str) -> None:
        """Count the bytes of a text that was read."""
        self.offset += num_bytes(text, self.codec)


def bare(line: str) -> str:
    """A line without its end, however often that is doubled; RowError for one that has another kind of end in it."""
    text = line.rstrip("\r\n")
    if "\r" in text or "\n" in text:
        raise RowError("has a line end of another kind in it; save the file with one kind of line end, LF or CR LF")
    return text


def about_quotes(names: Iterable[str]) -> str:
    """What to do about columns whose names have quotes around them, as those of a quoted tsv; "" if none has."""
    return f"; {UNQUOTED}" if any(len(name) > 1 and name[0] == name[-1] == '"' for name in names) else ""


def columns_but(absent: str, names: Iterable[str]) -> str:
    """The columns that there are, for a message about one that is not there, and which may have been meant."""
    names = list(names)
    meant = nearest(absent, names)
    hint = "" if meant is None else f" (did you mean {meant!r}?)"
    return f"the columns are {listed(names)}{hint}{about_quotes(names)}"


@contextmanager
def open_text(path: str, encoding: str | None = None) -> Iterator[Text]:
    """The text of a file, or of standard input for "-". Lines end as the first one does: in CR alone, or in LF.

    Args:
        path: of a file, gzipped or not.
        encoding: the name of a Python codec; UTF-8 unless given.

    Raises:
        InputError: for what begins like a text of another encoding, or like a binary file.
    """
    with open_unzipped(path) as stream:
        head = stream.peek(4)
        codec, mark = stream_codec(encoding, head)
        stream.read(len(mark))
        start = head[len(mark) :].decode(codec, "ignore")
        newline = "\r" if re.match(r"[^\r\n]*\r+[^\r\n]", start) else "\n"
        text = io.TextIOWrapper(stream, encoding=codec, errors=error_handler(codec), newline=newline)
        yield Text(text, len(mark), codec)
