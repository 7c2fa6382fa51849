"""A step under an engine that shards parameters or gradients: one loss over all tasks, one backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..gradients.all_reduce import sum_over_processes
from ..gradients.joint_loss import JointLoss
from ..gradients.method import GradientMethod
from ..model.modeling import MultiTaskModel
from ..seeding import seeded_generator
from ..tasks.spec import TaskSpec
from .step import Backward, Batches, MultiTaskStep


class JointStep(MultiTaskStep):
    """A step whose method weighs losses: DeepSpeed and FSDP leave no process with a task's whole gradient.

    Args:
        model: the model itself.
        tasks: task -> its declaration, in the order of the losses.
        method: gives the tasks' weights from their losses.
        losses_of: batches -> each task's mean loss, by one forward of the model as the engine wrapped it.
        context: entered around every forward.
        seed: of the run.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskSpec],
        method: GradientMethod,
        *,
        losses_of: Callable[[Batches], Mapping[str, Tensor]],
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        seed: int,
    ) -> None:
        super().__init__(
            model, tasks, method, loss_of=lambda task, batch: losses_of({task: batch})[task], context=context, seed=seed
        )
        self.losses_of = losses_of
        self.joint = JointLoss(list(tasks), self.loss_weights, method)
        self.step_units: Tensor | None = None

    def begin(self, global_step: int) -> None:
        """Before the first micro-batch of a step."""
        self.global_step = global_step
        self._micro_batches.clear()
        self.joint.clear()

    def expect(self, batches: Sequence[Batches], device: torch.device) -> None:
        """Count the units of each task in the whole step, over micro-batches and processes."""
        if batches:
            self.step_units = torch.stack(list(map(self.count_units, batches))).sum(dim=0).to(device)
            sum_over_processes([self.step_units])

    def run(self, batches: Batches, *, backward: Backward, sync: bool, scaler: Any = None) -> dict[str, Tensor]:
        """Run backward on the weighted sum of the tasks' losses, after `expect`. See `MultiTaskStep`."""
        assert self.step_units is not None
        self._remember(batches)
        losses = self._forward_all(batches)
        generator = seeded_generator(self.seed, self.global_step)
        total = self.joint.collect(losses, self.count_units(batches), self.step_units, generator)
        if total is not None:
            backward(total)
        if sync:
            joint = self.joint
            self.statistics.add(
                self.global_step,
                joint.bad_tasks(),
                joint.mean_losses(),
                is_present=joint.is_present(),
                method_failed=joint.method_failed,
            )
        return {task: loss.detach() for task, loss in losses.items()}

    def _losses(self) -> JointLoss:
        return self.joint

    def _forward_all(self, batches: Batches) -> Mapping[str, Tensor]:
        with self.context():
            return self.losses_of(batches)
