"""The gradient of every task over the shared parameters, one flat row per task, and their combination.

Backward accumulates straight into the rows, because `.grad` of every shared parameter is a view into the row of the
task at hand: nothing is copied, and gradient accumulation over micro-batches costs nothing.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from pytorch_optimizer import PCGrad
from torch import Tensor
from torch.nn import Parameter

from .seeding import seeded_generator
from .weightings import WEIGHTINGS, Weighting, check_options, make_weighting

DOT_CHUNK = 1 << 20  # elements that one fp32 dot product sums before the partial sums are added in fp64


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of two flat rows: fp32 inside chunks of a million elements, fp64 across them. *Shape:* ()"""
    starts = range(0, max(1, len(a)), DOT_CHUNK)
    parts = [torch.dot(a[i : i + DOT_CHUNK].float(), b[i : i + DOT_CHUNK].float()) for i in starts]
    return torch.stack(parts).double().sum()


class TaskGradients:
    """One row per task over the shared parameters that train, filled by backward and combined in place.

    Each row holds the gradient of the task's loss summed over its rows of data; `num_rows` counts them, so that
    micro-batches and ranks of unequal size weigh by their rows.

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
        size = sum(p.numel() for p in self.shared)
        self.rows = torch.zeros(len(self.tasks), size, dtype=example.dtype, device=example.device)
        self.num_rows = torch.zeros(len(self.tasks), dtype=torch.float64, device=example.device)
        self._loss_weights = torch.tensor([loss_weights[t] for t in self.tasks], dtype=torch.float64).to(example.device)
        self._views = [self._views_of(row) for row in self.rows]

    def _views_of(self, row: Tensor) -> list[Tensor]:
        pieces = torch.split(row, [p.numel() for p in self.shared])
        return [piece.view_as(p) for piece, p in zip(pieces, self.shared, strict=True)]

    def clear(self) -> None:
        """Begin a step: no gradient and no row counted yet."""
        self.rows.zero_()
        self.num_rows.zero_()
        self._point_to(None)
        for parameters in self.heads.values():
            for parameter in parameters:
                parameter.grad = None

    def _point_to(self, index: int | None) -> None:
        for i, parameter in enumerate(self.shared):
            parameter.grad = None if index is None else self._views[index][i]

    def collect(self, task: str, num_rows: int) -> None:
        """Let the next backward, of the task's loss summed over `num_rows` rows, add to the task's row."""
        index = self.tasks.index(task)
        self._point_to(index)
        self.num_rows[index] += num_rows

    def reduce(self) -> None:
        """Sum rows, heads' gradients and row counts over the processes; nothing to do for one."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        head_gradients = [p.grad for parameters in self.heads.values() for p in parameters if p.grad is not None]
        for tensor in (*self.rows, self.num_rows, *head_gradients):
            dist.all_reduce(tensor)

    def _scales(self) -> Tensor:
        """Factor from the gradient of a summed loss to that of the weighted mean loss. *Shape:* (K,), fp64"""
        return self._loss_weights / self.num_rows.clamp(min=1)

    def gramian(self) -> Tensor:
        """Inner products of the tasks' mean gradients over the shared parameters. *Shape:* (K, K), fp64"""
        num_tasks = len(self.tasks)
        products = self.rows.new_zeros(num_tasks, num_tasks, dtype=torch.float64)
        for i in range(num_tasks):
            for j in range(i + 1):
                products[i, j] = products[j, i] = row_dot(self.rows[i], self.rows[j])
        scales = self._scales()
        return products * scales[:, None] * scales

    def mean_rows(self) -> list[Tensor]:
        """Copies of the tasks' mean gradients over the shared parameters. *Shape:* K times (P,)"""
        return [row * scale.to(row.dtype) for row, scale in zip(self.rows, self._scales(), strict=True)]

    def write_weighted(self, weights: Tensor) -> None:
        """Make `.grad` the weighted sum of the tasks' mean gradients, built in place in the first row.

        Args:
            weights: one per task. *Shape:* (K,)
        """
        factors = (weights * self._scales()).to(self.rows.dtype)
        combined = self.rows[0].mul_(factors[0])
        for row, factor in zip(self.rows[1:], factors[1:], strict=True):
            combined.addcmul_(row, factor)
        self._finish()

    def write(self, combined: Tensor) -> None:
        """Make `.grad` the given gradient over the shared parameters. *Shape:* (P,)"""
        self.rows[0].copy_(combined)
        self._finish()

    def _finish(self) -> None:
        """Shared parameters take the first row, each head its own task's mean gradient."""
        self._point_to(0)
        for parameters, scale in zip(self.heads.values(), self._scales(), strict=True):
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale.to(parameter.grad.dtype))


CombineGradients = Callable[[TaskGradients, int, int], None]


def _combine_by_weights(gradients: TaskGradients, seed: int, step: int, *, weighting: Weighting) -> None:
    gradients.write_weighted(weighting(gradients.gramian(), seeded_generator(seed, step)))


def _pcgrad_reference(gradients: TaskGradients, seed: int, step: int, *, reduction: str = "sum") -> None:
    """PCGrad as pytorch_optimizer computes it, from copies of the rows; its shuffle is seeded by (seed, step)."""
    surgeon = PCGrad(torch.optim.SGD(gradients.shared or gradients.heads[gradients.tasks[0]]), reduction=reduction)
    rows = gradients.mean_rows()
    state = random.getstate()
    random.seed(f"{seed}/{step}")
    try:
        combined = surgeon.project_conflicting(rows, [torch.ones_like(row) for row in rows])
    finally:
        random.setstate(state)
    gradients.write(combined)


GRADIENT_METHODS = (*WEIGHTINGS, "pcgrad_reference")


def make_combination(method: str, /, **options: object) -> CombineGradients:
    """What a gradient method does at the end of a step: `(gradients, seed, step)`, writing `.grad` everywhere.

    Args:
        method: a name of `WEIGHTINGS`, or "pcgrad_reference" for pytorch_optimizer's own projection.
        options: the method's own.

    Raises:
        InputError: for an unknown method or option.
    """
    if method == "pcgrad_reference":
        check_options(method, _pcgrad_reference, options)
        return functools.partial(_pcgrad_reference, **options)  # type: ignore[arg-type]
    return functools.partial(_combine_by_weights, weighting=make_weighting(method, **options))
