"""Tables that Arrow reads, parquet files and Arrow's IPC files and streams, in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from ..errors import InputError
from .gzipped import is_gzipped, plain_file

ARROW_FORMATS = ("parquet", "arrow")
IPC_FILE = b"ARROW1"  # what an IPC file begins with, and a stream does not
ROWS = 1 << 16  # the most of a batch


@contextmanager
def open_batches(path: str, form: str, *, rows: int = ROWS) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema of a table and its rows, as record batches of at most `rows`, whose values can be read safely.

    Args:
        path: of a file, gzipped or not.
        form: one of `ARROW_FORMATS`.
        rows: of a batch.

    Raises:
        InputError: for a column that is there twice.
    """
    with plain_file(path) as plain:
        if form == "parquet":
            with pyarrow.parquet.ParquetFile(plain) as file:
                check_names(file.schema_arrow.names)
                yield file.schema_arrow, _validated(file.iter_batches(batch_size=rows))
            return
        with pyarrow.OSFile(plain) as source:
            is_file = source.read(len(IPC_FILE)) == IPC_FILE
            source.seek(0)
            reader = pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
            check_names(reader.schema.names)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else iter(reader)
            yield reader.schema, (batch for whole in batches for batch in _parts(_checked(whole), rows))


def num_rows(path: str, form: str) -> int | None:
    """The rows of a parquet file; None for what would have to be read through."""
    if form != "parquet" or is_gzipped(path):
        return None
    return int(pyarrow.parquet.read_metadata(path).num_rows)


def check_names(names: list[str]) -> list[str]:
    """The columns of a table; InputError for one that is there twice."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"has the column {twice[0]!r} twice; rename one of them")
    return names


def _validated(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        batch.validate()
        yield batch


def _parts(batch: Any, rows: int) -> Iterator[Any]:
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _checked(batch: Any) -> Any:
    """A batch as it is; ArrowInvalid where its offsets and indices lead out of it, as those of a damaged file may.

    A string that is no UTF-8 is left for whoever reads it.
    """
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid:
            _as_bytes(column).validate(full=True)
    return batch


def _as_bytes(column: Any) -> Any:
    """A column of strings as bytes of the same buffers; any other as it is."""
    types = pyarrow.types
    for is_text, kind in ((types.is_string, pyarrow.binary()), (types.is_large_string, pyarrow.large_binary())):
        if is_text(column.type):
            with suppress(pyarrow.ArrowInvalid):
                return column.view(kind)
    return column
