"""Rows to batches: each task's rows are padded alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..model.encoding import NO_LABEL, SEQUENCE_LENGTHS, SEQUENCES_PER_ROW, WORD_NUMBERS, padding_values
from .ragged_column import RaggedColumn
from .task_rows import Rows

Columns = Mapping[str, NDArray[Any] | RaggedColumn]


class TaskCollator:
    """Rows with task names -> `{task: {"input_ids": (sequences, tokens), ..., "labels": (rows, ...)}}`.

    Each task is padded alone, as `tokenizer.pad` does, on the right whatever the tokenizer's side, and without its way
    through Python lists. Columns that are no input of the model are stacked. Rows of several sequences have
    "sequences_per_row" (rows,). Labels of rows with "word_numbers" are those of tokens, padded with -100.

    Args:
        tokenizer: knows what to pad with.
        pad_to_multiple_of: tokens are rounded up to a multiple of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, rows: Iterable[Rows]) -> dict[str, dict[str, Tensor]]:
        fill = padding_values(self.tokenizer)
        return {task: self._batch(columns, fill) for task, columns in _columns_by_task(rows).items()}

    def _batch(self, columns: Columns, fill: Mapping[str, int]) -> dict[str, Tensor]:
        ids = columns["input_ids"]
        assert isinstance(ids, RaggedColumn)
        lengths, multiple = ids.lengths, self.pad_to_multiple_of or 1
        sequences = columns.get(SEQUENCE_LENGTHS)
        if isinstance(sequences, RaggedColumn):
            lengths = sequences.values
        real = np.arange(-(-lengths.max() // multiple) * multiple) < lengths[:, None]
        batch = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        if WORD_NUMBERS in columns:
            fill = {**fill, "labels": NO_LABEL}
        for name, column in columns.items():
            if name == SEQUENCE_LENGTHS and isinstance(column, RaggedColumn):
                batch[SEQUENCES_PER_ROW] = torch.from_numpy(column.lengths)
            elif isinstance(column, RaggedColumn) and name in fill:
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
    """*Shapes:* (tokens of all rows,), (sequences, tokens) -> (sequences, tokens), int64"""
    padded = np.full(real.shape, fill, dtype=np.int64)
    padded[real] = values
    return torch.from_numpy(padded)


def _stacked(values: Sequence[Any]) -> Tensor:
    """Numbers of equal shape as int64 or fp32. *Shape:* (rows, ...)"""
    stacked = torch.from_numpy(np.asarray(values))
    return stacked.float() if stacked.is_floating_point() else stacked.long()
