"""Files of text: the format that a name ends in, and what is in one, gzipped or not, checked to be UTF-8."""

from __future__ import annotations

import gzip
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "txt")
PACKED = (".zip", ".bz2", ".xz", ".lzma", ".zst", ".lz4", ".7z", ".rar", ".tar", ".tgz", ".tar.gz")
BLOCK = 1 << 16  # bytes or characters that are read at once
UNQUOTED = "tsv is read without quoting; save a table whose cells are quoted as .csv"
GZIP, BOM, UTF_16 = b"\x1f\x8b", b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


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
        stream: where bytes that are no UTF-8 come as surrogates, which no UTF-8 gives.
        offset: bytes before the text that is read next.
    """

    stream: io.TextIOWrapper
    offset: int

    def __iter__(self) -> Iterator[str]:
        """The lines, with their ends; RowError for one that is no UTF-8."""
        for line in self.stream:
            check_utf8(line, self.offset)
            self.offset += num_bytes(line)
            yield line


def bare(line: str) -> str:
    """A line without its end, however often that is doubled; RowError for one that has another kind of end in it."""
    text = line.rstrip("\r\n")
    if "\r" in text or "\n" in text:
        raise RowError("has a line end of another kind in it; save the file with one kind of line end, LF or CR LF")
    return text


def about_quotes(names: Iterable[str]) -> str:
    """What to do about columns whose names have quotes around them, as those of a quoted tsv; "" if none has."""
    return f"; {UNQUOTED}" if any(len(name) > 1 and name[0] == name[-1] == '"' for name in names) else ""


def num_bytes(text: str) -> int:
    """The bytes that a text was read from."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogateescape"))


def check_utf8(text: str, offset: int) -> None:
    """Raise RowError for the first byte that was no UTF-8; `offset` bytes of the file are before the text."""
    try:
        _ = text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        before, byte = num_bytes(text[: error.start]), ord(text[error.start]) & 0xFF
        raise RowError(
            f"is no UTF-8: byte 0x{byte:02x} at offset {offset + before} of the file, {before} of its line; save the "
            "file as UTF-8"
        ) from None


@contextmanager
def open_text(path: str) -> Iterator[Text]:
    """The text of a file, or of standard input for "-". Lines end as the first one does: in CR alone, or in LF.

    Raises:
        InputError: for what begins like UTF-16 or a binary file.
    """
    with ExitStack() as stack:
        raw: Any = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        stream = io.BufferedReader(raw, BLOCK)
        if stream.peek(2)[:2] == GZIP:
            unzipped: Any = gzip.GzipFile(fileobj=stream)
            stream = io.BufferedReader(unzipped, BLOCK)
        head = stream.peek(4)
        if head.startswith(UTF_16) or b"\0" in head[:4]:
            raise InputError("begins like UTF-16 or a binary file, wanted UTF-8 text; save the file as UTF-8")
        newline = "\r" if re.match(rb"[^\r\n]*\r+[^\r\n]", head) else "\n"
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
        yield Text(text, len(BOM) if head.startswith(BOM) else 0)
