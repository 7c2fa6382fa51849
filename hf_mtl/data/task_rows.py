"""Rows of several tasks behind one index."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from .ragged_column import as_array, from_arrow

Rows = dict[str, Any]
Cells = Mapping[str, Sequence[Any] | NDArray[Any]]  # column -> its cells, in the order of the rows


class TaskRows(torch.utils.data.Dataset[Rows]):
    """Rows of several tasks behind one index, each row carrying its task's name under "task".

    Args:
        tasks: task -> tokenised rows; their order is the order of the indices.
        order: another order of all rows; nothing is copied for it. *Shape:* (rows,)

    Raises:
        InputError: for rows with a transform, which would not be applied: columns are read once, as arrays.
    """

    def __init__(self, tasks: Mapping[str, Dataset], order: NDArray[np.int64] | None = None) -> None:
        self.tasks, self._order = dict(tasks), order
        for name, rows in self.tasks.items():
            if rows.format["type"] == "custom":
                raise InputError(f"the rows of task {name!r} have a transform (set_transform); use map instead")
        self.sizes = {name: len(rows) for name, rows in self.tasks.items()}
        tables = {name: rows.with_format("arrow")[:] for name, rows in self.tasks.items()}
        self.lengths = {name: as_array(table["length"], np.int32) for name, table in tables.items()}
        self._columns = {
            name: {column: from_arrow(table[column]) for column in table.column_names if column != "length"}
            for name, table in tables.items()
        }
        self._names = list(self.tasks)
        self._ends = np.cumsum(list(self.sizes.values()))
        self._starts = self._ends - list(self.sizes.values())

    def with_column(self, name: str, cells: Mapping[str, NDArray[Any]]) -> TaskRows:
        """The same rows, not copied, with one more column for some tasks.

        Args:
            name: of the column, which these tasks do not have.
            cells: task -> its cells, in the order of its rows. *Shape:* (rows, ...)
        """
        rows = copy.copy(self)
        columns = self._columns.items()
        rows._columns = {task: {**own, **({name: cells[task]} if task in cells else {})} for task, own in columns}
        return rows

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

    def _picked(self, indices: Sequence[int]) -> dict[str, tuple[NDArray[np.int64], Cells]]:
        """Task -> which of `indices` are its rows, and the cells of these by column."""
        rows = np.asarray(indices) if self._order is None else self._order[np.asarray(indices)]
        owners = np.searchsorted(self._ends, rows, side="right")
        places = rows - self._starts[owners]
        picked: dict[str, tuple[NDArray[np.int64], Cells]] = {}
        for owner in np.unique(owners).tolist():
            where, task = np.flatnonzero(owners == owner), self._names[owner]
            picked[task] = where, {name: column[places[where]] for name, column in self._columns[task].items()}
        return picked
