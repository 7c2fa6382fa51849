"""Which rows make which batch: exact shares of every task, a pure function of (seed, epoch, position).

Weighted random sampling with replacement has the right shares only on average. Here every batch has them exactly,
which is the same expectation without the variance, no row repeats before its task is through, and any position of
any epoch can be computed without having drawn the ones before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..seeding import seeded_generator
from .task_shares import Floats, task_quotas

Ints = NDArray[np.int64]
Lengths = NDArray[np.integer[Any]]
AT_ONCE = 4096  # rows
GROUPED_BATCHES = 400  # batches whose rows are sorted by length together


def epoch_batches(sizes: Sequence[int], shares: Floats, num_processes: int = 1) -> int:
    """Batches of an epoch: one pass over the largest task, rounded up to a multiple of `num_processes`."""
    largest = int(np.argmax(sizes))
    num_batches = math.ceil(sizes[largest] / shares[largest] - 1e-9)
    return num_batches + -num_batches % num_processes


def permuted_rows(
    lengths: Lengths, pass_index: int, *, seed: int, task: int, quota: int, grouped: bool, skip: int = 0
) -> Iterator[Ints]:
    """One pass over a task's rows in the order in which they are trained on, in pieces. *Shape of each:* (rows,).

    Args:
        lengths: tokens of each row.
        pass_index: number of passes before this one; each has its own permutation.
        seed: of the run.
        task: position of the task.
        quota: rows of the task in a batch; batches start at multiples of it, counted from the start of training.
        grouped: sort stretches of the permutation by length, so that rows of one batch are about equally long, and
            put the batches of a stretch back into a random order.
        skip: leave out so many rows at the beginning.
    """
    generator = seeded_generator(seed, task, pass_index)
    order = torch.randperm(len(lengths), generator=generator).numpy()
    if not grouped or quota < 2:
        yield order[skip:]
        return
    head = -pass_index * len(lengths) % quota  # rows that fill the batch which the pass before began
    stretch = quota * GROUPED_BATCHES
    yield order[skip:head]
    for start in range(head, len(order), stretch):
        rows = order[start : start + stretch]
        whole, rest = divmod(len(rows), quota)  # only the pass's last batch may be short
        shuffled = torch.randperm(whole, generator=generator).numpy()  # drawn for what is left out too
        if start + len(rows) <= skip:
            continue
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches, last = rows[: len(rows) - rest].reshape(whole, quota), rows[len(rows) - rest :]
        yield np.concatenate([batches[shuffled].ravel(), last])[max(0, skip - start) :]


class TaskBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of indices into rows that lie task after task, each batch with its exact quota of every task.

    An epoch is one pass over the largest task at the shares of epoch 0; under proportional sampling that is one over
    all rows. Where the shares change with the epoch, the number of batches does not. Each task runs through a fresh
    permutation before any row repeats, across epochs too; the number of batches is rounded up to a multiple of
    `num_processes`, and the last batch is filled from the next permutation.

    Args:
        lengths: task -> tokens of each row, in the order of the indices.
        batch_size: rows of a batch over all tasks.
        shares: epoch -> average rows of each task in a batch, from `task_shares`.
        seed: of the run.
        num_processes: batches are dealt to the processes in turn.
        grouped: group rows of about equal length inside each task.
    """

    def __init__(
        self,
        lengths: Mapping[str, Lengths],
        *,
        batch_size: int,
        shares: Callable[[int], Floats],
        seed: int,
        num_processes: int = 1,
        grouped: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self.drop_last = True  # every batch is full
        self.lengths = list(lengths.values())
        self.sizes = [len(rows) for rows in self.lengths]
        self.seed, self.grouped, self.epoch = seed, grouped, 0
        self.num_batches = epoch_batches(self.sizes, shares(0), num_processes)
        self._shares = shares
        self._quotas: dict[bytes, Ints] = {}  # of the few distinct shares
        self._index_starts = np.cumsum([0, *self.sizes[:-1]])
        self._epoch_starts = [np.zeros(len(self.sizes), dtype=np.int64)]

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def quotas(self, epoch: int) -> Ints:
        """Rows of each task in each batch of an epoch. *Shape:* (batches, K)."""
        shares = self._shares(epoch)
        key = shares.tobytes()
        if key not in self._quotas:
            self._quotas[key] = task_quotas(shares, self.num_batches)
        return self._quotas[key]

    def __iter__(self) -> Iterator[list[int]]:
        positions = self._starts(self.epoch)
        streams = [self._stream(task, int(position)) for task, position in enumerate(positions)]
        for quota in self.quotas(self.epoch):
            yield [next(stream) for stream, rows in zip(streams, quota, strict=True) for _ in range(rows)]

    def task_rows(self, task: int, epoch: int) -> Iterator[int]:
        """The rows of one task from the start of an epoch on, without end, numbered from 0."""
        first = int(self._index_starts[task])
        for index in self._stream(task, int(self._starts(epoch)[task])):
            yield index - first

    def passes(self, epochs: float) -> Floats:
        """How often each task's rows come in that many epochs of the run: 0.5 is half of them once. *Shape:* (K,)."""
        whole = int(epochs)
        part = self.quotas(whole)[: round((epochs - whole) * self.num_batches)].sum(axis=0)
        return np.asarray((self._starts(whole) + part) / np.asarray(self.sizes))

    def _starts(self, epoch: int) -> Ints:
        """Rows of each task that all epochs before this one take. *Shape:* (K,)."""
        while len(self._epoch_starts) <= epoch:
            before = len(self._epoch_starts) - 1
            self._epoch_starts.append(self._epoch_starts[before] + self.quotas(before).sum(axis=0))
        return self._epoch_starts[epoch]

    def _usual_quota(self, task: int, position: int) -> int:
        """Rows of a task in an average batch of the epoch in which its row at `position` comes."""
        epoch = 0
        while self._starts(epoch + 1)[task] <= position:
            epoch += 1
        return max(1, round(float(self._shares(epoch)[task])))

    def _stream(self, task: int, position: int) -> Iterator[int]:
        """Indices of one task's rows without end, from `position` rows after the start of training."""
        pass_index, skip = divmod(position, self.sizes[task])
        while True:
            yield from self._pass(task, pass_index, skip)
            pass_index, skip = pass_index + 1, 0

    def _pass(self, task: int, pass_index: int, skip: int) -> Iterator[int]:
        """Indices of one task's rows in one pass over them, but for the first `skip`."""
        pieces = permuted_rows(
            self.lengths[task],
            pass_index,
            seed=self.seed,
            task=task,
            # The quota of the epoch in which the pass began: a run resumed within the pass has the same order.
            quota=self._usual_quota(task, pass_index * self.sizes[task]),
            grouped=self.grouped,
            skip=skip,
        )
        for piece in pieces:
            for start in range(0, len(piece), AT_ONCE):  # all at once, Python's numbers would take 40 bytes a row
                yield from (piece[start : start + AT_ONCE] + self._index_starts[task]).tolist()


class OneTaskBatches(torch.utils.data.Sampler[list[int]]):
    """One task's rows of every batch of several tasks, as indices into the rows of that task alone.

    It has as many batches as `joint`, in the same epochs, and a batch holds the task's quota.

    Args:
        joint: deals the batches of all tasks.
        task: position of the task among them.
    """

    def __init__(self, joint: TaskBatchSampler, task: int) -> None:
        self.joint, self.task = joint, task
        self.batch_size, self.drop_last = joint.batch_size, True
        self.sizes, self.seed = [joint.sizes[task]], joint.seed

    def __len__(self) -> int:
        return len(self.joint)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.joint.set_epoch(epoch)

    def quotas(self, epoch: int) -> Ints:
        """Rows of the task in each batch of an epoch. *Shape:* (batches, 1)."""
        return self.joint.quotas(epoch)[:, [self.task]]

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.joint.task_rows(self.task, self.joint.epoch)
        for (quota,) in self.quotas(self.joint.epoch):
            yield [next(rows) for _ in range(quota)]

    def passes(self, epochs: float) -> Floats:
        """How often the task's rows come in that many epochs of the run. *Shape:* (1,)."""
        return self.joint.passes(epochs)[[self.task]]
