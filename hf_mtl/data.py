"""From a task's declaration to token ids: loading, checking, tokenising, tagging and batching its rows."""

from __future__ import annotations

import csv
import hashlib
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import torch
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .demo import demo_rows
from .errors import InputError
from .kinds import KINDS
from .tasks import EMBEDDED, FILE_FORMATS, SPLITS, TaskSpec

logger = logging.getLogger(__name__)
Rows = dict[str, Any]


def load_rows(spec: TaskSpec, split: str) -> Dataset | None:
    """The raw rows of one split ("train", "validation" or "test"), or None when the task has no such split.

    Raises:
        InputError: when the data cannot be loaded, the split is empty or a declared text column is missing, no text,
            or has empty cells.
    """
    assert split in SPLITS
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
        for row, text in enumerate(rows[column][:]):
            if text is None:
                raise InputError(f"{where}: column {column!r} has no text in row {row} (the first row is 0)")
    return rows


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


def _load_file(spec: TaskSpec, path: str) -> Dataset:
    suffix = Path(path).suffix.lower()
    if Path(path).is_file() and _has_no_rows(path, suffix):
        return Dataset.from_dict({})
    options: dict[str, Any] = {}
    if FILE_FORMATS[suffix] == "csv":
        # pandas takes "NA", "null" and "None" for missing, which as a text they are not; and of lines with a cell too
        # many it makes an index, or with index_col=False, cuts them off with a warning, which is an error here.
        no_label = [text for text in ("", "NA", "NaN", "nan", "null") if text not in (spec.labels or ())]
        missing = {spec.label_column: no_label, **{column: [""] for column in spec.text_columns}}
        options = {"keep_default_na": False, "na_values": missing, "index_col": False}
    if suffix == ".tsv":
        # In GLUE's tsv files a quote is a character: read as csv quoting, one that opens a field swallows rows.
        options.update(sep="\t", quoting=csv.QUOTE_NONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return datasets.load_dataset(
            FILE_FORMATS[suffix], data_files=path, split="train", cache_dir=_content_cache(path), **options
        )


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


def read_labels(spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
    """The labels as class indices (int64) or values (float64), checked. *Shape:* (rows,)

    Args:
        spec: the task.
        rows: its raw rows.
        split: in "test", rows may lack a label: no column, null, NaN, or -1 where that is no label of the task. They
            come back as NaN, and all labels as floats.

    Raises:
        InputError: for the first label that is not one the task declares; it names the row and what was wanted.
    """
    column, where = spec.label_column, f"task {spec.name!r}, split {split!r}"
    unlabelled = split == "test"
    if column not in rows.column_names:
        if unlabelled:
            return np.full(len(rows), np.nan)
        raise InputError(f"{where}: no label column {column!r}; the columns are {', '.join(rows.column_names)}")
    values = [_as_number(spec, value) for value in _named(spec, rows)]
    head, admits = spec.head, KINDS[spec.kind].admits
    wanted = f"one of {list(spec.labels)}" if spec.labels else f"a number in {list(spec.label_range or ())}"
    for row, (value, found) in enumerate(zip(values, rows[column][:], strict=True)):
        if value is not None and not np.isnan(value) and admits(value, head):
            continue
        if unlabelled and (found is None or value == -1 or (value is not None and np.isnan(value))):
            values[row] = np.nan
        else:
            raise InputError(f"{where}: label {found!r} in row {row} (the first row is 0) is not {wanted}")
    return np.asarray(values, dtype=np.float64 if unlabelled or spec.kind == "regression" else np.int64)


def _named(spec: TaskSpec, rows: Dataset) -> list[Any]:
    """The label column, with numbers turned into class names where that is what they are.

    Those are the indices of data that names the same classes, maybe in another order, and the numbers of data without
    class names where the task's classes are called "1", "2", ...
    """
    feature = rows.features[spec.label_column]
    values = rows[spec.label_column][:]
    if isinstance(feature, ClassLabel):
        if spec.labels and set(feature.names) == set(spec.labels):
            return [feature.names[v] if v is not None and 0 <= v < len(feature.names) else v for v in values]
    elif spec.labels and all(label.isdecimal() for label in spec.labels):
        return [f"{v:g}" if isinstance(v, int | float) and v >= 0 else v for v in values]
    return values


def _as_number(spec: TaskSpec, value: Any) -> float | None:
    """A class name as its index, a number as it is; None for what is neither."""
    if spec.labels and isinstance(value, str) and value in spec.labels:
        return spec.labels.index(value)
    return float(value) if isinstance(value, int | float) else None


def input_limit(max_seq_length: int, tokenizer: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig) -> int:
    """The most tokens an input may have: what was asked for, or what tokenizer and encoder can take; says if less."""
    # RoBERTa's and MPNet's position numbers start at 2, so their tables hold two more than the longest input.
    positions = getattr(encoder_config, "max_position_embeddings", None) or max_seq_length
    table = positions - 2 if tokenizer.model_max_length > positions else positions
    limit = min(max_seq_length, tokenizer.model_max_length, table)
    if limit < max_seq_length:
        logger.info("inputs are cut to %d tokens, the most that this encoder takes", limit)
    return limit


def tokenise(
    spec: TaskSpec,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    labels: NDArray[Any] | None = None,
) -> Dataset:
    """Token ids of every row, without padding.

    Args:
        spec: the task; a pair of text columns becomes one input of two segments.
        rows: the raw rows.
        tokenizer: any fast or slow tokenizer.
        max_length: longer inputs lose their end (of the longer text first), in tokens, special ones included.
        labels: what `read_labels` gave; left out unless given.

    Returns:
        Columns: the tokenizer's inputs, "length" (tokens) and, with labels, "labels".
    """

    def encode(batch: Mapping[str, list[str]]) -> Rows:
        texts = [batch[column] for column in spec.text_columns]
        tokens = tokenizer(*texts, truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
        return {**tokens, "length": [len(ids) for ids in tokens["input_ids"]]}

    # Kept in memory: the stock cache does not notice edits to this file and would hand out old rows.
    tokenised = rows.map(
        encode,
        batched=True,
        remove_columns=rows.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,
        desc=f"tokenising {spec.name}",
    )
    return tokenised if labels is None else tokenised.add_column("labels", labels)


class TaskRows(torch.utils.data.Dataset[Rows]):
    """Rows of several tasks behind one index, each row carrying its task's name under "task".

    Args:
        tasks: task -> tokenised rows; their order is the order of the indices.
    """

    def __init__(self, tasks: Mapping[str, Dataset]) -> None:
        self.tasks = dict(tasks)
        self.lengths = {name: np.asarray(rows["length"], dtype=np.int64) for name, rows in self.tasks.items()}
        self.sizes = {name: len(rows) for name, rows in self.tasks.items()}
        self._columns = {name: [c for c in rows.column_names if c != "length"] for name, rows in self.tasks.items()}
        self._names = list(self.tasks)
        self._ends = np.cumsum(list(self.sizes.values()))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Rows:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Rows]:
        """The rows at `indices`, in one read per task; `torch.utils.data` calls this with a whole batch."""
        owner = np.searchsorted(self._ends, indices, side="right")
        items: list[Rows] = [{}] * len(indices)
        for task in np.unique(owner):
            name = self._names[task]
            places = np.flatnonzero(owner == task)
            start = int(self._ends[task]) - self.sizes[name]
            columns = self.tasks[name][[int(indices[int(place)]) - start for place in places]]
            for row, place in enumerate(places):
                items[int(place)] = {"task": name, **{column: columns[column][row] for column in self._columns[name]}}
        return items


class TaskCollator:
    """Rows with task names -> `{task: {"input_ids": (rows, tokens), ..., "labels": (rows,)}}`, each task padded alone.

    Args:
        tokenizer: pads.
        pad_to_multiple_of: tokens are rounded up to a multiple of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, rows: Iterable[Rows]) -> dict[str, dict[str, Tensor]]:
        by_task: dict[str, list[Rows]] = {}
        for row in rows:
            by_task.setdefault(row["task"], []).append({k: v for k, v in row.items() if k != "task"})
        return {task: dict(self._pad(group)) for task, group in by_task.items()}

    def _pad(self, rows: list[Rows]) -> Mapping[str, Tensor]:
        padded = self.tokenizer.pad(rows, padding=True, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="pt")
        return {name: value.float() if value.is_floating_point() else value for name, value in padded.items()}
