"""Tells the step and the batch sampler where steps and epochs begin and end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from .batches import TrainSampler
from .checkpoint_callbacks import CheckpointManager
from .run_settings import RunSettings
from .step import MultiTaskStep
from .unfreezing import steps_per_epoch

logger = logging.getLogger(__name__)
MANY_PASSES = 20


class StepCallback(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Comes before everything that saves or stops.

    Args:
        step: of the training.
        settings: go on with what a checkpoint had.
        checkpoints: knows the checkpoint that the run goes on from, and saves one.
        sampler: gives the sampler of the run.
        own_groups: whether the optimizer's groups are those that were asked for, which DeepSpeed's are not.
    """

    def __init__(
        self,
        step: MultiTaskStep,
        settings: RunSettings,
        checkpoints: CheckpointManager,
        sampler: Callable[[], TrainSampler],
        *,
        own_groups: bool,
    ) -> None:
        self.step, self.settings, self.checkpoints, self.sampler = step, settings, checkpoints, sampler
        self.own_groups = own_groups

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        if self.checkpoints.resumed_from is not None:
            state.compute_steps(args, state.max_steps)
            self.settings.apply_to_loaded(optimizer, lr_scheduler, own_groups=self.own_groups)
        self._say_what_comes_often(state.max_steps / steps_per_epoch(args, len(self.sampler()) // args.world_size))

    def _say_what_comes_often(self, epochs: float) -> None:
        """Name the tasks whose rows come more than `MANY_PASSES` times in the run."""
        sampler = self.sampler()
        for task, size, passes in zip(self.settings.tasks, sampler.sizes, sampler.passes(epochs), strict=True):
            if passes > MANY_PASSES:
                logger.warning(
                    "%s: %s rows, %.0f times each in this run; a smaller sampling_weight of the task, or "
                    "--task_sampling proportional, repeats them less",
                    task,
                    f"{size:,}",
                    passes,
                )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Resumed in mid-epoch on several processes, the Trainer sets the epoch of a wrapper instead of the sampler.
        self.sampler().set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step.end()
        if self.step.statistics.most_bad_steps() >= args.max_bad_steps:
            self.checkpoints.save_whole(args, control)
            control.should_training_stop = True
