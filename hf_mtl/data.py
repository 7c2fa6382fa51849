"""From raw rows to batches: tokenising, tagging with the task, padding each task alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .tasks import TaskSpec

logger = logging.getLogger(__name__)
Rows = dict[str, Any]


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
        max_length: longer inputs lose their end (of the longer text first), in tokens, special ones included. How many
            they are is logged.
        labels: what `read_labels` gave; left out unless given.

    Returns:
        Columns: the tokenizer's inputs, "length" (tokens) and, with labels, "labels".
    """

    def encode(batch: Mapping[str, list[str]]) -> Rows:
        texts = [batch[column] for column in spec.text_columns]
        tokens = tokenizer(*texts, truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
        lengths = [len(ids) for ids in tokens["input_ids"]]
        return {**tokens, "length": lengths, "cut": _cut(tokens, texts, tokenizer, max_length)}

    # Kept in memory: the stock cache does not notice edits to this file and would hand out old rows.
    tokenised = rows.map(
        encode,
        batched=True,
        remove_columns=rows.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,
        desc=f"tokenising {spec.name}",
    )
    num_cut = sum(tokenised["cut"])
    if num_cut:
        logger.info("%s: %d of %d rows are longer than %d tokens, cut", spec.name, num_cut, len(rows), max_length)
    tokenised = tokenised.remove_columns("cut")
    return tokenised if labels is None else tokenised.add_column("labels", labels)


def _cut(tokens: Any, texts: list[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[bool]:
    """Whether each row lost its end."""
    if tokens.encodings is not None:
        return [bool(encoding.overflowing) for encoding in tokens.encodings]
    # A slow tokenizer does not keep what it cut off.
    whole = tokenizer(*texts, truncation=False, return_attention_mask=False, verbose=False)
    return [len(ids) > max_length for ids in whole["input_ids"]]


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
