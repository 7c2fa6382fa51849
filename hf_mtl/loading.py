"""Raw rows of a task: read from wherever they are, and checked before anything is built on them."""

from __future__ import annotations

import csv
import functools
import hashlib
import logging
import sys
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
from datasets import Dataset

from .demo import demo_rows
from .errors import InputError
from .labels import RowErrors, label_numbers, raise_first, source_of
from .tasks import EMBEDDED, FILE_FORMATS, SPLITS, TaskSpec

logger = logging.getLogger(__name__)
ON_BAD_ROW = ("error", "skip")
READ_AT_ONCE = 10 << 20  # bytes of JSON lines
LISTED = 20  # bad rows whose fault is spelled out


def load_rows(spec: TaskSpec, split: str, on_bad_row: str = "error") -> Dataset | None:
    """The raw rows of one split ("train", "validation" or "test"), or None when the task has no such split.

    Args:
        spec: the task.
        split: of it.
        on_bad_row: what to do with a row that has no text or a label that the task does not declare: "error", or
            "skip", which counts and lists them. In "test" every row has to be sound: predictions are numbered.

    Raises:
        InputError: when the data cannot be loaded, the split is empty, a declared text column is missing or no text,
            or a row is bad; bad labels are left to `read_labels` unless rows are skipped.
    """
    assert split in SPLITS and on_bad_row in ON_BAD_ROW
    rows = _load(spec, split)
    if rows is None:
        return None
    where = f"task {spec.name!r}, split {split!r}"
    if len(rows) == 0:
        raise InputError(f"{where}: the split is empty, wanted at least one row")
    for column in spec.text_columns:
        if column not in rows.column_names:
            raise InputError(f"{where}: no column {column!r}; the columns are {', '.join(rows.column_names)}")
        if getattr(rows.features[column], "dtype", None) not in ("string", "large_string"):
            raise InputError(f"{where}: column {column!r} is {rows.features[column]}, wanted text")
    bad = _rows_without_text(spec, rows)
    if on_bad_row == "skip" and split != "test":
        if spec.label_column in rows.column_names:
            bad = {**label_numbers(spec, rows, split)[1], **bad}
        return _skip(rows, bad, where, source_of(spec, split))
    raise_first(bad, where, source_of(spec, split))
    return rows


def _rows_without_text(spec: TaskSpec, rows: Dataset) -> RowErrors:
    """Row -> what is wrong with it."""
    return {
        row: (f"column {column!r} has no text", "")
        for column in spec.text_columns
        for row, text in enumerate(rows[column][:])
        if text is None
    }


def _skip(rows: Dataset, bad: RowErrors, where: str, source: str) -> Dataset:
    """The rows that are not bad; says which are."""
    if not bad:
        return rows
    if len(bad) == len(rows):
        raise InputError(f"{where}: none of the {len(rows)} rows of {source} can be used; row 0: {''.join(bad[0])}")
    listed = [f"row {row}: {''.join(bad[row])}" for row in sorted(bad)[:LISTED]]
    more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    logger.warning(
        "%s: %d of %d rows of %s skipped (the first row is 0): %s%s",
        where,
        len(bad),
        len(rows),
        source,
        "; ".join(listed),
        more,
    )
    return rows.select([row for row in range(len(rows)) if row not in bad])


def _load(spec: TaskSpec, split: str) -> Dataset | None:
    own_name = spec.splits.get(split, split)
    if spec.dataset == EMBEDDED:
        return Dataset.from_dict(demo_rows(str(spec.config), split))
    try:
        if spec.files:
            return _load_file(spec, spec.files[split]) if split in spec.files else None
        assert spec.dataset is not None
        everything = datasets.load_dataset(spec.dataset, spec.config, cache_dir=_content_cache(spec.dataset))
    except (OSError, ValueError, RuntimeError, pd.errors.ParserWarning, datasets.exceptions.DatasetsError) as error:
        source = spec.files.get(split) or f"{spec.dataset}, configuration {spec.config}"
        known = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = (str(known or error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"task {spec.name!r}: cannot load {source!r}: {reason}") from error
    return everything.get(own_name)


def split_names(spec: TaskSpec) -> list[str]:
    """The names of the splits that a task's data has, once they can be loaded."""
    if spec.files or spec.dataset == EMBEDDED:
        return list(spec.files or SPLITS)
    assert spec.dataset is not None
    return list(datasets.load_dataset(spec.dataset, spec.config, cache_dir=_content_cache(spec.dataset)))


def _load_file(spec: TaskSpec, path: str) -> Dataset:
    suffix = Path(path).suffix.lower()
    if Path(path).is_file() and _has_no_rows(path, suffix):
        return Dataset.from_dict({})
    options: dict[str, Any] = {}
    if FILE_FORMATS[suffix] == "csv":
        # pandas takes "NA", "null" and "None" for missing, which as a text they are not, and digits for numbers; and of
        # lines with a cell too many it makes an index, or with index_col=False, cuts them off with a warning, which is
        # an error here. Of several chunks each would have its own type.
        no_label = tuple(text for text in ("", "NA", "NaN", "nan", "null") if text not in (spec.labels or ()))
        cells: dict[str, Any] = dict.fromkeys(spec.text_columns, _cell)
        if spec.labels:
            cells[spec.label_column] = functools.partial(_cell, missing=no_label)
        missing = {spec.label_column: list(no_label)}
        options = {"keep_default_na": False, "na_values": missing, "converters": cells, "index_col": False}
        options["chunksize"] = sys.maxsize
    elif FILE_FORMATS[suffix] == "json" and Path(path).is_file():
        options["chunksize"] = max(Path(path).stat().st_size, READ_AT_ONCE)
    if suffix == ".tsv":
        # In GLUE's tsv files a quote is a character: read as csv quoting, one that opens a field swallows rows.
        options.update(sep="\t", quoting=csv.QUOTE_NONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return datasets.load_dataset(
            FILE_FORMATS[suffix], data_files=path, split="train", cache_dir=_content_cache(path), **options
        )


def _cell(text: str, missing: tuple[str, ...] = ("",)) -> str | None:
    """A cell's text, None for one that is missing."""
    return None if text in missing else text


def _has_no_rows(path: str, suffix: str) -> bool:
    """Whether a file holds at most a header, of which every format's reader makes another error."""
    if suffix == ".parquet":
        return bool(pyarrow.parquet.read_metadata(path).num_rows == 0)
    header = 0 if suffix == ".jsonl" else 1
    with open(path, "rb") as stream:
        return len(list(islice((line for line in stream if line.strip()), header + 1))) <= header


def _content_cache(source: str) -> str | None:
    """A cache folder named after the content of a local file or folder; None (the usual cache) for a Hub id.

    `load_dataset` recognises a local folder by its name, and would hand out the old rows of one that was rewritten.
    """
    path = Path(source)
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "hf_mtl" / digest.hexdigest()[:32])
