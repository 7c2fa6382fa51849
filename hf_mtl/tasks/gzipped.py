"""Files that may be gzipped: what is in one, as a stream, or as a file that can be read from any place.

Its content says whether a file is gzipped; a name that says something else is told.
"""

from __future__ import annotations

import gzip
import io
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import datasets

logger = logging.getLogger(__name__)
BLOCK = 1 << 16  # bytes or characters that are read at once
MAGIC = b"\x1f\x8b"


@contextmanager
def open_unzipped(path: str) -> Iterator[Any]:
    """The bytes of a file, or of standard input for "-", unzipped where they are gzipped; a stream that can peek."""
    with ExitStack() as stack:
        raw: Any = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        stream = io.BufferedReader(raw, BLOCK)
        if _is_gzipped(path, stream.peek(len(MAGIC))):
            unzipped: Any = gzip.GzipFile(fileobj=stream)
            stream = io.BufferedReader(unzipped, BLOCK)
        yield stream


@contextmanager
def plain_file(path: str) -> Iterator[str]:
    """The path of a file that is not gzipped: the file's own, or that of a copy which goes when the block ends."""
    with open(path, "rb") as stream:
        is_gzipped = _is_gzipped(path, stream.read(len(MAGIC)))
    if not is_gzipped:
        yield path
        return
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(path) as packed, tempfile.NamedTemporaryFile(dir=folder) as copy:
        shutil.copyfileobj(packed, copy, BLOCK)
        copy.flush()
        yield copy.name


def is_gzipped(path: str) -> bool:
    """Whether a file is gzipped, whatever it is called."""
    with open(path, "rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def _is_gzipped(path: str, head: bytes) -> bool:
    """Whether a file that begins like this is gzipped; says where its name says something else."""
    found = head[: len(MAGIC)] == MAGIC
    if path != "-" and found != path.lower().endswith(".gz"):
        what = "it is gzipped, and its name does not end" if found else "it is not gzipped, and its name ends"
        logger.warning("%r: %s in .gz; it is read by what is in it", path, what)
    return found
