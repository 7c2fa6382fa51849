"""The gradient of every task over the shared parameters, and their weighted sum.

A hook moves every gradient into the row of the task at hand the moment backward has it, or a packed pass puts it there
itself, so that beside the rows nothing of their size is ever held. Later micro-batches add to the row.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from .all_reduce import begin_sum_over_processes
from .gradient_buffer import GradientBuffer
from .gramian import inner_products


class TaskGradients:
    """One row per task over the shared parameters that train, filled by backward and combined in place.

    Each row holds the gradient of the task's loss summed over its rows of data, and the rows of data are counted, so
    that micro-batches and ranks of unequal size weigh by their rows.

    Args:
        tasks: names, in the order of the rows.
        shared: every parameter that more than one task reaches and that trains now; may be empty.
        heads: task -> the parameters that only this task reaches.
        loss_weights: task -> factor on its gradient.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        shared: Sequence[Parameter],
        heads: Mapping[str, Sequence[Parameter]],
        loss_weights: Mapping[str, float],
    ) -> None:
        self.tasks = list(tasks)
        self.shared = list(shared)
        self.heads = {task: list(heads[task]) for task in self.tasks}
        example = (self.shared or self.heads[self.tasks[0]])[0]
        self.buffer = GradientBuffer(len(self.tasks), self.shared, like=example)
        self._losses, self._counts = torch.zeros(2, len(self.tasks), dtype=torch.float64, device=example.device)
        self.loss_scale = 1.0
        self.has_scaler = False
        self._loss_weights = torch.tensor([loss_weights[t] for t in self.tasks], dtype=torch.float64)
        self._task: int | None = None  # whose backward is under way
        self._grad_row: int | None = None  # the row that `.grad` shows
        self._sums: list[dist.Work] = []  # over the processes, under way
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(functools.partial(self._take_grad, i))  # type: ignore[no-untyped-call]
            for i, parameter in enumerate(self.shared)
        ]

    def close(self) -> None:
        """Let go of the parameters, which else would keep the rows in memory."""
        for hook in self._hooks:
            hook.remove()

    def _take_grad(self, i: int, parameter: Tensor) -> None:
        """Take a gradient that backward has just left in `.grad`."""
        if self._task is None or parameter.grad is None:
            return
        gradient, parameter.grad = parameter.grad, None
        if gradient.is_sparse:
            self.buffer.add_at(self._task, self.shared[i], gradient._indices()[0], gradient._values())
        else:
            self.buffer.add(self._task, self.shared[i], gradient)

    def clear(self) -> None:
        """Begin a step: no gradient, no loss and no row counted yet."""
        self.buffer.clear(changed=self._grad_row)
        self._losses.zero_()
        self._counts.zero_()
        self._point_to(None)
        for task in self.tasks:
            self._drop_head(task)

    def _point_to(self, index: int | None) -> None:
        self._grad_row = index
        for i, parameter in enumerate(self.shared):
            parameter.grad = None if index is None else self.buffer.views[index][i]

    def _drop_head(self, task: str) -> None:
        for parameter in self.heads[task]:
            parameter.grad = None

    def count(self, task: str, loss: Tensor, num_units: int | Tensor) -> None:
        """Add a micro-batch to the task's totals: its number of units, such as rows, and their mean loss."""
        index = self.tasks.index(task)
        self._losses[index] += loss.detach() * num_units
        self._counts[index] += num_units

    @contextmanager
    def collecting(self, task: str, loss: Tensor, num_units: int | Tensor) -> Iterator[None]:
        """Inside, backward of `loss * num_units` adds to the task's row; elsewhere, backward is as ever.

        Args:
            task: whose loss it is.
            loss: mean over the units. *Shape:* ()
            num_units: how many they are.
        """
        self.count(task, loss, num_units)
        self._task = self.tasks.index(task)
        try:
            yield
        finally:
            self._task = None

    def begin_sum(self, task: str) -> None:
        """Begin to sum a task's finished gradients over the processes, while the next task's backward runs.

        Every process calls it for every task, in the same order.
        """
        i = self.tasks.index(task)
        self.buffer.zero_unwritten(i)
        self._sums += begin_sum_over_processes([self.buffer.values[i], *self._head_gradients(task)])
        if self._sums:  # other processes may have other vectors
            self.buffer.mark_dense()

    def reduce(self) -> None:
        """Wait for the sums, take the rows' inner products, and fetch all numbers that decide the step."""
        self._sums += begin_sum_over_processes([self._losses, self._counts])
        while self._sums:
            self._sums.pop().wait()
        heads = torch.zeros_like(self._losses)
        for i, task in enumerate(self.tasks):
            for gradient in self._head_gradients(task):
                heads[i] += gradient.float().norm()
        products = torch.stack([inner_products(own.flatten(1)) for _, _, own in self.buffer.column_blocks()]).sum(dim=0)
        numbers = torch.stack([self._losses, self._counts, heads, *products])
        # The only wait for the device in a step. Encoders that test the mask for padding wait once more per forward.
        self.loss_sums, self.num_rows, self._head_norms, *fetched = numbers.cpu()
        self._products = torch.stack(fetched)

    def leave_out_bad_tasks(self, *, keep_overflow: bool) -> list[str]:
        """Leave out of this step every task whose loss or gradient is not finite; the same ones on every rank.

        A task without any unit, such as tags of which no word has one, is absent, which is no fault.

        Args:
            keep_overflow: keep gradients that are not finite where the loss is: under an fp16 scaler they make it skip
                the step and lower its scale.

        Returns:
            The names of the tasks that are not finite. Their rows, and those of absent tasks, are zero, and their heads
            have no gradient.
        """
        good_loss = self.loss_sums.isfinite().tolist()
        good_gradient = (self._products.diagonal().isfinite() & self._head_norms.isfinite()).tolist()
        good = [loss and (gradient or keep_overflow) for loss, gradient in zip(good_loss, good_gradient, strict=True)]
        self.finite_tasks = [i for i, there in enumerate(self.is_present().tolist()) if there and good[i]]
        self.overflow = not all(good_gradient[i] for i in self.finite_tasks)
        for i in set(range(len(self.tasks))) - set(self.finite_tasks):
            self.buffer.values[i].zero_()
            self._drop_head(self.tasks[i])
        return [task for task, ok in zip(self.tasks, good, strict=True) if not ok]

    def _head_gradients(self, task: str) -> list[Tensor]:
        return [p.grad for p in self.heads[task] if p.grad is not None]

    def is_empty(self) -> bool:
        """Whether no micro-batch of the step was counted yet."""
        return not self._counts.any()

    def gradient_of(self, task: str) -> list[Tensor]:
        """The task's gradient of its summed loss so far, in the shared parameters' shapes; views of the buffer."""
        index = self.tasks.index(task)
        self.buffer.zero_unwritten(index)
        return self.buffer.views[index]

    def conflict(self) -> Tensor:
        """Whether two tasks' gradients have a negative inner product. *Shape:* (), bool."""
        return (self._products < 0).any()

    def is_present(self) -> Tensor:
        """Whether each task has a unit, such as a row, in the step. *Shape:* (K,), bool."""
        return self.num_rows > 0

    def mean_losses(self) -> Tensor:
        """Mean loss of each task over the step's rows of data on all processes; 0 of none. *Shape:* (K,), fp64."""
        return self.loss_sums / self.num_rows.clamp(min=1)

    def _scales(self) -> Tensor:
        """Factor from the gradient of a summed loss to that of the weighted mean loss. *Shape:* (finite,), fp64."""
        return (self._loss_weights / self.num_rows.clamp(min=1))[self.finite_tasks]

    def gramian(self) -> Tensor:
        """Inner products of the finite tasks' mean gradients, unscaled. *Shape:* (finite, finite), fp64."""
        scales = self._scales() / self.loss_scale
        return self._products[self.finite_tasks][:, self.finite_tasks] * scales[:, None] * scales

    def finite_losses(self) -> Tensor:
        """`mean_losses`, NaN for a task that is left out or absent. *Shape:* (K,), fp64."""
        return only_finite(self.mean_losses(), self.finite_tasks)

    def mean_rows(self) -> Tensor:
        """Copies of the finite tasks' mean gradients over the shared parameters. *Shape:* (finite, P)."""
        scales = self._scales().to(self.buffer.values)
        return self.buffer.values[self.finite_tasks] * scales[:, None]

    def write_weighted(self, weights: Tensor, *, heads_too: bool = False) -> None:
        """Make `.grad` the weighted sum of the finite tasks' mean gradients, built in place in the first row.

        Args:
            weights: one per finite task. *Shape:* (finite,)
            heads_too: weigh each head's gradient by its task's weight, as a weighted sum of the losses would.
        """
        first, *factors = (weights * self._scales()).tolist()
        for view, vectors, own in self.buffer.column_blocks():
            combined = own[self.finite_tasks[0]].mul_(first)
            for i, factor in zip(self.finite_tasks[1:], factors, strict=True):
                combined.add_(own[i], alpha=factor)
            if vectors is not None:
                view[self.finite_tasks[0]].index_copy_(0, vectors, combined)
        self._finish(weights if heads_too else torch.ones_like(weights))

    def write(self, combined: Tensor) -> None:
        """Make `.grad` the given gradient over the shared parameters. *Shape:* (P,)."""
        self.buffer.values[self.finite_tasks[0]].copy_(combined)
        self._finish(torch.ones(len(self.finite_tasks)))

    def write_nothing(self) -> None:
        """Leave no gradient anywhere, so that the optimizer moves nothing."""
        self._point_to(None)
        for task in self.tasks:
            self._drop_head(task)
        if self.has_scaler:  # a scaler fails without any gradient, and skips the step for one that is not finite
            parameter = (self.shared or self.heads[self.tasks[0]])[0]
            parameter.grad = torch.full_like(parameter, torch.inf)

    def _finish(self, head_weights: Tensor) -> None:
        """Shared parameters take the combined row, each head its own task's mean gradient times a weight."""
        self._point_to(self.finite_tasks[0])
        for i, scale in zip(self.finite_tasks, (self._scales() * head_weights).tolist(), strict=True):
            for gradient in self._head_gradients(self.tasks[i]):
                gradient.mul_(scale)


def only_finite(losses: Tensor, tasks: Sequence[int]) -> Tensor:
    """Losses of these tasks, NaN for the others. *Shapes:* (K,) -> (K,)."""
    kept = torch.full_like(losses, torch.nan)
    kept[tasks] = losses[tasks]
    return kept
