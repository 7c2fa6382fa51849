"""From raw rows to batches: tokenising, tagging with the task, padding each task alone."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow  # type: ignore[import-untyped]
import tokenizers
import torch
import transformers
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.encoding import ENCODING_VERSION, padding_values
from ..plugins import plugins_digest
from ..tasks.kinds import kind_of
from ..tasks.spec import TaskSpec
from .ragged_column import Columns, RaggedColumn, from_arrow

logger = logging.getLogger(__name__)
Rows = dict[str, Any]


def tokenize(
    spec: TaskSpec,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    labels: NDArray[Any] | None = None,
) -> Dataset:
    """Token ids of every row, without padding; kept on disk for the next run with the same texts and tokenizer.

    Args:
        spec: the task; a pair of text columns becomes one input of two segments.
        rows: the raw rows.
        tokenizer: any fast or slow tokenizer.
        max_length: longer inputs lose their end (of the longer text first), in tokens, special ones included. How many
            they are is logged.
        labels: what `read_labels` gave; left out unless given.

    Returns:
        Columns: the tokenizer's inputs, "length" (tokens) and, with labels, "labels".
    """
    kind = kind_of(spec)

    def encode_batch(batch: Mapping[str, list[str]], numbers: list[int]) -> Rows:
        pairs = list(zip(*(batch[column] for column in spec.text_columns), strict=True))
        for number, texts in zip(numbers, pairs, strict=True):
            if not all(isinstance(text, str) for text in texts):
                raise InputError(f"task {spec.name!r}: row {number} holds {texts!r}, wanted text")
        encoded = kind.head.encode(spec.head, pairs, tokenizer, max_length)
        columns = {name: [row[name] for row in encoded.rows] for name in encoded.rows[0]}
        return {**columns, "length": list(map(len, columns["input_ids"])), "cut": encoded.cut}

    texts = rows.select_columns(list(dict.fromkeys(spec.text_columns)))
    make = functools.partial(
        texts.map,
        encode_batch,
        batched=True,
        with_indices=True,
        remove_columns=texts.column_names,
        desc=f"tokenising {spec.name}",
    )
    tokenised = _kept(make, _cache_file(spec, texts, tokenizer, max_length), len(texts))
    if tokenised is None:
        tokenised = make(keep_in_memory=True, load_from_cache_file=False)
    num_cut = sum(tokenised["cut"])
    if num_cut:
        logger.info("%s: %d of %d rows are longer than %d tokens, cut", spec.name, num_cut, len(rows), max_length)
    tokenised = tokenised.remove_columns("cut")
    return tokenised if labels is None else kind.add_labels(spec, tokenised, labels)


def _kept(make: Callable[..., Dataset], file: Path | None, num_rows: int) -> Dataset | None:
    """What `make` makes, from and into a file; None where no file can be written."""
    if file is None:
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not _is_whole(file, num_rows):
            logger.warning("%s is damaged and made anew", file)
            file.unlink()
        # The stock fingerprint knows no version of the encoding and could hand out old rows; the file's name knows it.
        return make(cache_file_name=str(file), new_fingerprint=file.stem, load_from_cache_file=True)
    except OSError as error:
        logger.warning("tokens are not kept for the next run: %s", error)
        return None


def _is_whole(file: Path, num_rows: int) -> bool:
    """Whether a file of tokens can be read and has all its rows; a machine that fails may leave less."""
    try:
        return bool(len(Dataset.from_file(str(file))) == num_rows)
    except (pyarrow.ArrowInvalid, OSError):
        return False


def _cache_file(spec: TaskSpec, texts: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Path | None:
    """The cache file, named after everything that determines the tokens; None without a cache or a tokenizer's hash.

    Those are the texts themselves, the tokenizer's state, the length, the versions, and the plugins' code.
    """
    state = _state(tokenizer)
    if state is None or not datasets.is_caching_enabled():
        return None
    kind, names = type(tokenizer), tokenizer.model_input_names
    facts = [kind.__module__, kind.__qualname__, names, tokenizer.truncation_side, tokenizer.split_special_tokens]
    facts += [max_length, spec.text_columns, ENCODING_VERSION, tokenizers.__version__, transformers.__version__]
    facts += [spec.kind, plugins_digest()] if plugins_digest() else []  # a plugin's head may encode rows in its own way
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(state.encode())
    for batch in texts.with_format("arrow")[:].combine_chunks().to_batches():
        digest.update(batch.serialize())
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_mtl" / "tokens" / f"{digest.hexdigest()[:32]}.arrow"


def _state(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Vocabulary and rules of a fast tokenizer; None of a slow one, and of one with parts in Python."""
    try:
        whole: str = tokenizer.backend_tokenizer.to_str()
    except Exception:  # AttributeError, or what the Rust code raises: a bare Exception
        return None
    # What stands before the tokens, truncation and padding, changes with every call.
    return whole[whole.index('"added_tokens"') :]


class TaskRows(torch.utils.data.Dataset[Rows]):
    """Rows of several tasks behind one index, each row carrying its task's name under "task".

    Args:
        tasks: task -> tokenised rows; their order is the order of the indices.

    Raises:
        InputError: for rows with a transform, which would not be applied: columns are read once, as arrays.
    """

    def __init__(self, tasks: Mapping[str, Dataset]) -> None:
        self.tasks = dict(tasks)
        for name, rows in self.tasks.items():
            if rows.format["type"] == "custom":
                raise InputError(f"the rows of task {name!r} have a transform (set_transform); use map instead")
        self.sizes = {name: len(rows) for name, rows in self.tasks.items()}
        tables = {name: rows.with_format("arrow")[:] for name, rows in self.tasks.items()}
        self._columns = {name: {c: from_arrow(table[c]) for c in table.column_names} for name, table in tables.items()}
        self.lengths = {name: np.asarray(c.pop("length"), dtype=np.int64) for name, c in self._columns.items()}
        self._names = list(self.tasks)
        self._ends = np.cumsum(list(self.sizes.values()))
        self._starts = self._ends - list(self.sizes.values())

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Rows:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Rows]:
        """The rows at `indices`; `torch.utils.data` calls this with a whole batch."""
        rows: list[Rows] = [{}] * len(indices)
        for task, (where, columns) in self._picked(indices).items():
            for row, *values in zip(where.tolist(), *columns.values(), strict=True):
                rows[row] = {"task": task, **dict(zip(columns, values, strict=True))}
        return rows

    def by_column(self) -> TaskColumns:
        """The same rows for `TaskCollator`, without a dictionary for each."""
        return TaskColumns(self)

    def _picked(self, indices: Sequence[int]) -> dict[str, tuple[NDArray[np.int64], Columns]]:
        """Task -> which of `indices` are its rows, and the columns of these."""
        owners = np.searchsorted(self._ends, indices, side="right")
        places = np.asarray(indices) - self._starts[owners]
        picked: dict[str, tuple[NDArray[np.int64], Columns]] = {}
        for owner in np.unique(owners).tolist():
            where, task = np.flatnonzero(owners == owner), self._names[owner]
            picked[task] = where, {name: column[places[where]] for name, column in self._columns[task].items()}
        return picked


class TaskColumns(torch.utils.data.Dataset[Rows]):
    """`TaskRows` of which a batch is task -> columns; one by one they are the same rows."""

    def __init__(self, rows: TaskRows) -> None:
        self.rows = rows
        self.tasks, self.sizes, self.lengths = rows.tasks, rows.sizes, rows.lengths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Rows:
        return self.rows[index]

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Columns]:
        """The columns of the rows at `indices`, in their order within each task."""
        return {task: columns for task, (_, columns) in self.rows._picked(indices).items()}


class TaskCollator:
    """Rows with task names -> `{task: {"input_ids": (rows, tokens), ..., "labels": (rows, ...)}}`.

    Each task is padded alone, as `tokenizer.pad` does, on the right whatever the tokenizer's side, and without its way
    through Python lists.
    Columns that are no input of the model are stacked.

    Args:
        tokenizer: knows what to pad with.
        pad_to_multiple_of: tokens are rounded up to a multiple of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, rows: Iterable[Rows] | Mapping[str, Columns]) -> dict[str, dict[str, Tensor]]:
        by_task = rows if isinstance(rows, Mapping) else _columns_by_task(rows)
        fill = padding_values(self.tokenizer)
        return {task: self._batch(columns, fill) for task, columns in by_task.items()}

    def _batch(self, columns: Columns, fill: Mapping[str, int]) -> dict[str, Tensor]:
        ids = columns["input_ids"]
        assert isinstance(ids, RaggedColumn)
        lengths, multiple = ids.lengths, self.pad_to_multiple_of or 1
        real = np.arange(-(-lengths.max() // multiple) * multiple) < lengths[:, None]
        batch = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        for name, column in columns.items():
            if isinstance(column, RaggedColumn) and name in fill:
                batch[name] = _padded(column.values, real, fill[name])
            else:
                batch[name] = _stacked(list(column))
        return batch


def _columns_by_task(rows: Iterable[Rows]) -> dict[str, Columns]:
    by_task: dict[str, list[Rows]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    columns: dict[str, Columns] = {}
    for task, group in by_task.items():
        cells = {name: [row[name] for row in group] for name in group[0] if name != "task"}
        columns[task] = {
            n: RaggedColumn.of(each) if np.ndim(each[0]) else np.asarray(each) for n, each in cells.items()
        }
    return columns


def _padded(values: NDArray[Any], real: NDArray[np.bool_], fill: int) -> Tensor:
    """*Shapes:* (tokens of all rows,), (rows, tokens) -> (rows, tokens), int64"""
    padded = np.full(real.shape, fill, dtype=np.int64)
    padded[real] = values
    return torch.from_numpy(padded)


def _stacked(values: Sequence[Any]) -> Tensor:
    """Numbers of equal shape as int64 or fp32. *Shape:* (rows, ...)"""
    stacked = torch.from_numpy(np.asarray(values))
    return stacked.float() if stacked.is_floating_point() else stacked.long()
