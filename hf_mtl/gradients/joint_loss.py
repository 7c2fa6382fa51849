"""One loss for all tasks and one backward, for engines that shard parameters or gradients.

Under DeepSpeed and FSDP a single task's whole gradient is nowhere to be had, so methods that compare gradients cannot
work; those that look at the losses alone can, and this is their step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .all_reduce import sum_over_processes
from .method import GradientMethod, checked_weights
from .task_gradients import only_finite


class JointLoss:
    """The tasks' losses of one step, gathered over micro-batches and processes, and what to run backward on.

    Args:
        tasks: names, in the order of the losses.
        loss_weights: task -> factor on its loss.
        method: gives the tasks' weights from their losses.

    Attributes:
        method_failed: whether the method gave weights that are not finite in the step.
    """

    def __init__(self, tasks: Sequence[str], loss_weights: Mapping[str, float], method: GradientMethod) -> None:
        self.tasks, self.method = list(tasks), method
        self._loss_weights = torch.tensor([loss_weights[task] for task in tasks], dtype=torch.float64)
        self.clear()

    def clear(self) -> None:
        """Begin a step: no loss yet, no task left out."""
        self.loss_sums = torch.zeros(len(self.tasks), dtype=torch.float64)
        self.step_rows = torch.ones(len(self.tasks), dtype=torch.float64)
        self.finite_tasks = list(range(len(self.tasks)))
        self._bad: set[int] = set()
        self.method_failed = False

    def collect(
        self, losses: Mapping[str, Tensor], num_rows: Tensor, step_rows: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """The number to run backward on, so that the engine's mean over the processes is the step's gradient.

        A task whose loss is not finite on any process is left out of the micro-batch on all of them. One without a row
        on any process weighs 0, and stays in the graph: engines want every parameter in every backward.

        Args:
            losses: mean of each task over the micro-batch's rows on this process. *Shape:* () each
            num_rows: how many rows those are. *Shape:* (K,)
            step_rows: rows of the whole step, over micro-batches and processes. *Shape:* (K,)
            generator: the method's.

        Returns:
            *Shape:* (), or None when no task is left or the method gives weights that are not finite.
        """
        in_order = [losses[task] for task in self.tasks]
        sums = torch.stack([loss.detach().double() for loss in in_order])
        rows = num_rows.to(sums)
        sums *= rows
        world_size = sum_over_processes([sums, rows])
        sums, self.step_rows = sums.cpu(), step_rows.double().cpu()
        is_finite, is_present = sums.isfinite(), rows.cpu() > 0
        self._bad.update(torch.nonzero(~is_finite).flatten().tolist())
        self.finite_tasks = [task for task in self.finite_tasks if is_finite[task] and self.step_rows[task] > 0]
        self.loss_sums += sums
        finite = torch.nonzero(is_finite).flatten().tolist()
        if not finite:
            return None
        weights = self._weights(torch.where(is_present, sums / self._divisors(), torch.nan), generator)[finite]
        if not weights.isfinite().all():
            self.method_failed = True
            return None
        factors = weights * (self._loss_weights * num_rows.cpu() / self._divisors())[finite] * world_size
        # A sum over the finite tasks: a factor of 0 for the others would still run backward through them, into 0 * inf.
        return torch.stack([in_order[i] * factor.item() for i, factor in zip(finite, factors, strict=True)]).sum()

    def _weights(self, losses: Tensor, generator: torch.Generator) -> Tensor:
        """The method's, 0 for a task without a loss. *Shapes:* (K,), NaN for such -> (K,)"""
        if losses.isnan().all():
            return torch.zeros_like(losses)
        weights = checked_weights(self.method, self.method(losses, generator), len(losses))
        return torch.where(losses.isnan(), 0.0, weights)

    def _divisors(self) -> Tensor:
        return self.step_rows.clamp(min=1)

    def bad_tasks(self) -> list[str]:
        """The tasks that were left out of the step, or of a part of it."""
        return [task for i, task in enumerate(self.tasks) if i in self._bad]

    def is_present(self) -> Tensor:
        """Whether each task has a row in the step. *Shape:* (K,), bool."""
        return self.step_rows > 0

    def mean_losses(self) -> Tensor:
        """Mean loss of each task over the step's rows on all processes; 0 of none. *Shape:* (K,), fp64."""
        return self.loss_sums / self._divisors()

    def finite_losses(self) -> Tensor:
        """`mean_losses`, NaN for a task that was left out or absent. *Shape:* (K,), fp64."""
        return only_finite(self.mean_losses(), self.finite_tasks)
