"""One optimizer step, from the tasks' losses to the gradient that the optimizer reads. It knows no Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..gradients.all_reduce import sum_over_processes
from ..gradients.combine import combine_gradients
from ..gradients.joint_loss import JointLoss
from ..gradients.method import GradientMethod
from ..gradients.method_state import check_memory
from ..gradients.task_gradients import TaskGradients
from ..kernels.strategy import StepStrategy
from ..model.modeling import MultiTaskModel
from ..seeding import random_state, replayed
from ..tasks.spec import TaskSpec
from .step_statistics import StepStatistics

Batches = Mapping[str, Mapping[str, Tensor]]
Backward = Callable[[Tensor], Any]


class MultiTaskStep:
    """A step with every task in it: a gradient per task, combined at the step's last micro-batch.

    Args:
        model: the model itself; a wrapped one would mix the tasks' gradients.
        tasks: task -> its declaration, in the order of the rows of the buffer.
        method: gives the tasks' weights.
        loss_of: (task, its batch) -> mean loss over the batch's rows. *Shape:* ()
        context: entered around every forward.
        seed: of the run.
        stock_loss: whether the loss is a mean over the units of the task's kind; else it is one over rows.
        strategy: how rows pass through the model on a CPU; None for torch's own path.

    Attributes:
        statistics: what the steps have come to.
        gradients: each task's, between the first step and the end of the training.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskSpec],
        method: GradientMethod,
        *,
        loss_of: Callable[[str, Mapping[str, Tensor]], Tensor],
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        seed: int,
        stock_loss: bool = True,
        strategy: StepStrategy | None = None,
    ) -> None:
        self.model, self.tasks, self.method = model, tasks, method
        self.loss_of, self.context, self.seed, self.strategy = loss_of, context, seed, strategy
        self.stock_loss = stock_loss
        self.loss_weights = {name: spec.loss_weight for name, spec in tasks.items()}
        self.statistics = StepStatistics(list(tasks), method.name)
        self.gradients: TaskGradients | None = None
        self._is_first = True  # whether no step of the run is through
        # The step's micro-batches, each with the state of the random numbers before it.
        self._micro_batches: list[tuple[Tensor, Batches]] = []

    def begin_run(self) -> None:
        """Forget what an earlier run counted."""
        self.statistics.clear()
        self._is_first = True
        if self.strategy is not None:
            self.strategy.begin_run()

    def begin(self, global_step: int) -> None:
        """Before the first micro-batch: lay out the buffer, still without content, for what trains now.

        Args:
            global_step: the number of the step; random choices follow from it.
        """
        self.global_step = global_step
        self._micro_batches.clear()
        shared = [p for p in self.model.shared_parameters() if p.requires_grad]
        if self.gradients is None or list(map(id, shared)) != list(map(id, self.gradients.shared)):
            self.close()  # before the new one is laid out
            heads = self.model.head_parameters()
            self.gradients = TaskGradients(list(self.tasks), shared, heads, self.loss_weights)
        self.gradients.clear()
        if self.strategy is not None:
            self.strategy.begin_step()

    def expect(self, batches: Sequence[Batches], device: torch.device) -> None:
        """See the micro-batches of the step to come; only a joint loss has to know them."""

    def run(self, batches: Batches, *, backward: Backward, sync: bool, scaler: Any = None) -> dict[str, Tensor]:
        """Add a micro-batch to every task's gradient; at the step's last one, combine them.

        Args:
            batches: task -> its rows.
            backward: runs backward on a scaled loss, as accelerate does.
            sync: whether this is the step's last micro-batch.
            scaler: of losses, under fp16.

        Returns:
            Task -> mean loss. *Shape:* () each
        """
        assert self.gradients is not None
        self._remember(batches)
        losses = self._packed(self.gradients, batches, backward)
        for task in self.tasks:
            if task in batches and task not in losses:
                losses[task] = self._one_task(self.gradients, task, batches[task], backward)
            if sync:
                self.gradients.begin_sum(task)
        if sync:
            self._combine(self.gradients, scaler)
        return losses

    def _remember(self, batches: Batches) -> None:
        if self.strategy is not None:
            self.strategy.begin_micro_batch()
        if self.method.needs == "losses_after_step":
            self._micro_batches.append((random_state(self.model.device), batches))

    def _packed(self, gradients: TaskGradients, batches: Batches, backward: Backward) -> dict[str, Tensor]:
        """One forward and backward over the rows of all tasks, where the strategy has that; else nothing."""
        strategy = self.strategy
        batches = {} if strategy is None else strategy.packable(batches)
        if strategy is None or not batches:
            return {}
        with self.context():
            strategy.check(batches, gradients, self.loss_of)
            if not strategy.use_packed_pass:
                return {}
            losses = strategy.packed_losses(batches, gradients)
        sums = []
        for task, loss in losses.items():
            num_units = self.num_units(task, batches[task])
            gradients.count(task, loss, num_units)
            sums.append(loss * num_units)
        backward(torch.stack(sums).sum())
        return {task: loss.detach() for task, loss in losses.items()}

    def _one_task(self, gradients: TaskGradients, task: str, batch: Mapping[str, Tensor], backward: Backward) -> Tensor:
        num_units = self.num_units(task, batch)
        loss = self._forward(task, batch)
        with gradients.collecting(task, loss, num_units):
            backward(loss * num_units)
        return loss.detach()

    def _forward(self, task: str, batch: Mapping[str, Tensor]) -> Tensor:
        with self.around_forward(), self.context():
            return self.loss_of(task, batch)

    def around_forward(self) -> AbstractContextManager[None]:
        """The strategy's kernels, if there are any; in evaluation too."""
        if self.strategy is None:
            return nullcontext()
        return self.strategy.around_forward(() if self.gradients is None else self.gradients.shared)

    def _combine(self, gradients: TaskGradients, scaler: Any) -> None:
        """Reduce and combine the step's gradients; those that are not finite are counted and left out."""
        gradients.loss_scale, gradients.has_scaler = (1.0, False) if scaler is None else (scaler.get_scale(), True)
        gradients.reduce()
        bad = gradients.leave_out_bad_tasks(keep_overflow=scaler is not None)
        failed = combine_gradients(gradients, self.method, self.seed, self.global_step)
        self.statistics.add(
            self.global_step,
            bad,
            gradients.mean_losses(),
            gradients.conflict(),
            is_present=gradients.is_present(),
            method_failed=failed,
        )

    def end(self) -> None:
        """After the optimizer's step: a method that looks at losses learns from this step's."""
        losses = self._losses()
        moved = losses is not None and losses.finite_tasks and not self.statistics.bad_method_steps
        if losses is not None and moved and self.method.needs.startswith("losses"):
            after = self._losses_after_step().cpu() if self.method.needs == "losses_after_step" else None
            self.method.after_step(losses.finite_losses(), after)
        if self._is_first:  # a checkpoint would be left half written
            check_memory(self.method)
        self._is_first = False

    def _losses(self) -> TaskGradients | JointLoss | None:
        """What holds the losses of the step."""
        return self.gradients

    def _losses_after_step(self) -> Tensor:
        """Mean losses of the step's rows under the new weights, with the same dropout masks. *Shape:* (K,)"""
        device = self.model.device
        sums, units = torch.zeros(2, len(self.tasks), dtype=torch.float64, device=device)
        for state, batches in self._micro_batches:
            if self.strategy is not None:
                self.strategy.begin_micro_batch()
            with torch.no_grad(), replayed(state, device):
                losses = self._forward_all(batches)
            num_units = self.count_units(batches).to(sums)
            sums += torch.stack([losses[task].double() for task in self.tasks]) * num_units
            units += num_units
        sum_over_processes([sums, units])
        return sums / units

    def _forward_all(self, batches: Batches) -> Mapping[str, Tensor]:
        return {task: self._forward(task, batch) for task, batch in batches.items()}

    def num_units(self, task: str, batch: Mapping[str, Tensor]) -> int | Tensor:
        """What the mean loss of a batch is a mean over: rows, or tokens or spans of a kind that has those."""
        labels = batch["labels"]
        return self.model.num_units(task, labels) if self.stock_loss else len(labels)

    def count_units(self, batches: Batches) -> Tensor:
        """`num_units` of every task. *Shape:* (K,)"""
        return torch.tensor([int(self.num_units(task, batches[task])) for task in self.tasks])

    def close(self) -> None:
        """Free the buffer."""
        if self.gradients is not None:
            self.gradients.close()
        self.gradients = None
