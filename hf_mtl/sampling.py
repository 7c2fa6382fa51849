"""Which rows make which batch: exact shares of every task, a pure function of (seed, epoch, position).

Weighted random sampling with replacement has the right shares only on average. Here every batch has them exactly,
which is the same expectation without the variance, no row repeats before its task is through, and any position of
any epoch can be computed without having drawn the ones before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import InputError, unknown
from .seeding import seeded_generator

Ints = NDArray[np.int64]
GROUPED_BATCHES = 50  # batches whose rows are sorted by length together


def _equal(sizes: Sequence[int]) -> list[float]:
    return [1.0] * len(sizes)


def _proportional(sizes: Sequence[int]) -> list[float]:
    return [float(size) for size in sizes]


TASK_SAMPLING = {"equal": _equal, "proportional": _proportional}


def task_shares(
    sampling: str, sizes: Sequence[int], sampling_weights: Sequence[float], batch_size: int
) -> NDArray[np.float64]:
    """Rows of each task in an average batch; they sum to `batch_size` and none is below 1.

    Args:
        sampling: "equal" (every task alike, smaller ones repeat) or "proportional" (by number of rows).
        sizes: rows of each task.
        sampling_weights: factor on each task's share.
        batch_size: rows of a batch over all tasks.

    Raises:
        InputError: for an unknown `sampling` or a batch smaller than the number of tasks.
    """
    if sampling not in TASK_SAMPLING:
        raise unknown("task_sampling", sampling, TASK_SAMPLING)
    if batch_size < len(sizes):
        raise InputError(
            f"per_device_train_batch_size is {batch_size} and there are {len(sizes)} tasks; every batch holds every "
            f"task, wanted at least {len(sizes)}"
        )
    wanted = np.asarray(TASK_SAMPLING[sampling](sizes)) * np.asarray(sampling_weights, dtype=np.float64)
    floor = np.zeros(len(sizes), dtype=bool)
    while True:  # tasks whose share is below one row get one; the others divide what is left
        shares = np.where(floor, 1.0, wanted / wanted[~floor].sum() * (batch_size - floor.sum()))
        if not (shares < 1 - 1e-9).any():
            return shares
        floor |= shares < 1


def task_quotas(shares: NDArray[np.float64], num_batches: int) -> Ints:
    """Whole rows of each task in each batch. *Shape:* (num_batches, K)

    Every row sums to the batch size and holds at least 1; what a share has after the point is carried to the next
    batches, so that after t batches a task has had t times its share to within about one row.
    """
    batch_size = round(float(shares.sum()))
    quotas = np.empty((num_batches, len(shares)), dtype=np.int64)
    given = np.zeros(len(shares), dtype=np.int64)
    for t in range(num_batches):
        due = shares * (t + 1) - given
        quota = np.maximum(np.floor(due + 1e-9).astype(np.int64), 1)
        while quota.sum() < batch_size:
            quota[np.argmax(due - quota)] += 1
        while quota.sum() > batch_size:
            quota[np.argmin(np.where(quota > 1, due - quota, np.inf))] -= 1
        quotas[t] = quota
        given += quota
    return quotas


def permuted_rows(lengths: Ints, pass_index: int, *, seed: int, task: int, quota: int, grouped: bool) -> Ints:
    """One pass over a task's rows in the order in which they are trained on. *Shape:* (rows,)

    Args:
        lengths: tokens of each row.
        pass_index: number of passes before this one; each has its own permutation.
        seed: of the run.
        task: position of the task.
        quota: rows of the task in a batch; batches start at multiples of it, counted from the start of training.
        grouped: sort stretches of the permutation by length, so that rows of one batch are about equally long, and
            put the batches of a stretch back into a random order.
    """
    generator = seeded_generator(seed, task, pass_index)
    order = torch.randperm(len(lengths), generator=generator).numpy()
    if not grouped or quota < 2:
        return order
    head = -pass_index * len(lengths) % quota  # rows that fill the batch which the pass before began
    batches = [order[:head]]
    stretch = quota * GROUPED_BATCHES
    for start in range(head, len(order), stretch):
        rows = order[start : start + stretch]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        pieces = [rows[i : i + quota] for i in range(0, len(rows), quota)]
        last = [pieces.pop()] if len(pieces[-1]) < quota else []  # only the pass's last batch may be short
        shuffled = torch.randperm(len(pieces), generator=generator).tolist()
        batches += [pieces[i] for i in shuffled] + last
    return np.concatenate(batches)


class TaskBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of indices into rows that lie task after task, each batch with its exact quota of every task.

    An epoch is one pass over the largest task under equal sampling and one over all rows under proportional. Each
    task runs through a fresh permutation before any row repeats, across epochs too; the number of batches is rounded
    up to a multiple of `num_processes`, and the last batch is filled from the next permutation.

    Args:
        lengths: task -> tokens of each row, in the order of the indices.
        batch_size: rows of a batch over all tasks.
        shares: average rows of each task in a batch, from `task_shares`.
        seed: of the run.
        num_processes: batches are dealt to the processes in turn.
        grouped: group rows of about equal length inside each task.
    """

    def __init__(
        self,
        lengths: Mapping[str, Ints],
        *,
        batch_size: int,
        shares: NDArray[np.float64],
        seed: int,
        num_processes: int = 1,
        grouped: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self.drop_last = True  # every batch is full
        self.lengths = list(lengths.values())
        self.sizes = [len(rows) for rows in self.lengths]
        self.seed, self.grouped, self.epoch = seed, grouped, 0
        largest = int(np.argmax(self.sizes))
        num_batches = math.ceil(self.sizes[largest] / shares[largest] - 1e-9)
        num_batches += -num_batches % num_processes
        self.quotas = task_quotas(shares, num_batches)
        self._starts = np.cumsum([0, *self.sizes[:-1]])
        self._typical_quota = [max(1, round(float(share))) for share in shares]

    def __len__(self) -> int:
        return len(self.quotas)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        streams = [self._stream(task, self.epoch * int(self.quotas[:, task].sum())) for task in range(len(self.sizes))]
        for quota in self.quotas:
            yield [next(stream) for stream, rows in zip(streams, quota, strict=True) for _ in range(rows)]

    def _stream(self, task: int, position: int) -> Iterator[int]:
        """Indices of one task's rows without end, from `position` rows after the start of training."""
        pass_index, skip = divmod(position, self.sizes[task])
        while True:
            order = permuted_rows(
                self.lengths[task],
                pass_index,
                seed=self.seed,
                task=task,
                quota=self._typical_quota[task],
                grouped=self.grouped,
            )
            yield from (order[skip:] + self._starts[task]).tolist()
            pass_index, skip = pass_index + 1, 0
