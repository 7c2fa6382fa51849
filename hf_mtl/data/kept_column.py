"""A column of numbers that took long to compute, kept on disk for the next run and mapped into memory.

A file is that of `numpy.save` and behind it the SHA-256 of the numbers. It has its name once it is whole.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ..tasks.column_slices import add_to_digest

logger = logging.getLogger(__name__)
Column = NDArray[np.float32]
_DIGEST_SIZE = 32


def column_file(folder: str, facts: Iterable[str]) -> Path | None:
    """The file of a column in the cache, named after all that its numbers follow from; None without a cache."""
    if not datasets.is_caching_enabled():
        return None
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_mtl" / folder / f"{digest[:32]}.npy"


def rows_digest(rows: Dataset, columns: Sequence[str]) -> str:
    """The same for the same cells in the same order, however the table is divided."""
    digest = hashlib.sha256(repr(list(columns)).encode())
    add_to_digest(digest, rows.select_columns(list(columns)))
    return digest.hexdigest()


def read_column(file: Path | None, num_rows: int) -> Column | None:
    """The numbers in a file, mapped into memory; None where there is none, and where it is damaged, which is said.

    *Shape:* (rows, ...)
    """
    if file is None or not file.is_file():
        return None
    try:
        mapped = open_memmap(file, mode="r")
        sound = mapped.dtype == np.float32 and mapped.shape[:1] == (num_rows,)
        with open(file, "rb") as stream:
            stream.seek(-_DIGEST_SIZE, os.SEEK_END)
            if sound and stream.read() == _digest(mapped):
                return np.asarray(mapped)
    except (OSError, ValueError):  # of no numpy file, and of one that was cut
        pass
    logger.warning("%s is damaged and made anew", file)
    return None


def keep_column(file: Path | None, column: Column) -> None:
    """Put numbers into a file, which is there when all of them are; says why where it cannot be written."""
    if file is None:
        return
    unfinished = file.with_suffix(f".{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "wb") as stream:
                np.save(stream, column, allow_pickle=False)
                stream.write(_digest(column))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s is not kept for the next run: %s", file, error)


def _digest(column: Column) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(column).data).digest()
