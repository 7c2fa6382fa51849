"""What a run trains with, and how it goes on from a checkpoint that was trained with something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..gradients.method import GradientMethod
from ..gradients.method_state import restore_method
from ..model.modeling import MultiTaskModel
from ..tasks.spec import TaskSpec
from .arguments import MultiTaskTrainingArguments
from .optimizers import optimizer_class
from .resuming import (
    changes_of,
    encoder_fingerprint,
    keep_settings,
    rates,
    refuse_other_groups,
    refuse_other_optimizer,
    refuse_other_run,
    saved_settings,
    say_kept_rates,
    say_missing_best,
    settings_of,
    write_settings,
)
from .unsupported import shards_gradients
from .watched_metric import check_own_schedule, refuse_watchers_without_evaluations

ClassAndOptions = tuple[type[torch.optim.Optimizer], dict[str, Any]]


class RunSettings:
    """Knows what a run trains with, compares it with a checkpoint, and writes it into every one.

    Args:
        args: of the run.
        model: as it is before the training.
        tasks: task -> its declaration.
        teachers: task -> a digest of its teacher.

    Attributes:
        optimizer_class: the optimizer's, with its module; set when the trainer is built.
        scored: the tasks with validation rows; likewise.
        batch_size: rows per device that are trained with, which `auto_find_batch_size` chooses.
        changes: of settings, as [step, setting, before, now].
    """

    def __init__(
        self,
        args: MultiTaskTrainingArguments,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskSpec],
        teachers: Mapping[str, str],
    ) -> None:
        self.args, self.model, self.tasks, self.teachers = args, model, tasks, teachers
        self.optimizer_class = ""
        self.scored: Sequence[str] = ()
        self.batch_size = args.per_device_train_batch_size
        self.changes: list[list[Any]] = []
        self._encoder_at_start = None if shards_gradients(model, args) else encoder_fingerprint(model)
        self._rates: list[float] = []
        self._weight_decays: list[float | None] = []

    def current(self) -> dict[str, Any]:
        """What the result follows from, beside the data and the order of the batches."""
        others = {
            "optimizer class": self.optimizer_class,
            "teachers": self.teachers,
            "main metrics": {name: spec.main_metric for name, spec in self.tasks.items() if name in self.scored},
            "per_device_train_batch_size": self.batch_size,
            "loss weights": {name: spec.loss_weight for name, spec in self.tasks.items()},
            "sampling weights": {name: spec.sampling_weight for name, spec in self.tasks.items()},
        }
        return settings_of(self.args, self.model.config, others)

    def note_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the rates and weight decays that are asked for, which those of a checkpoint would replace."""
        self._rates = rates(optimizer)
        self._weight_decays = [group.get("weight_decay") for group in optimizer.param_groups]

    def go_on_from(
        self, checkpoint: Path, method: GradientMethod, new_optimizer: Callable[[], ClassAndOptions] | None
    ) -> None:
        """Refuse a checkpoint of another run; keep, or apply and say, what is changed.

        Args:
            checkpoint: a whole one.
            method: gets what it remembered.
            new_optimizer: gives class and options of an optimizer that is still to be made.
        """
        self.batch_size = self.args.per_device_train_batch_size
        if self.args.auto_find_batch_size:  # goes on with the one that it had found
            self.batch_size = saved_settings(checkpoint).get("per_device_train_batch_size", self.batch_size)
        settings = self.current()
        refuse_other_run(checkpoint, list(self.tasks), self.model.config, self._encoder_at_start, settings)
        restore_method(method, checkpoint)
        if new_optimizer is not None and "optimizer class" not in saved_settings(checkpoint):
            cls, options = new_optimizer()
            refuse_other_optimizer(checkpoint, cls([torch.nn.Parameter(torch.zeros(2, 2))], **options))
        if new_optimizer is None:
            refuse_other_groups(checkpoint, settings)
        keep_settings(checkpoint, self.args, settings)
        refuse_watchers_without_evaluations(self.args)  # the schedule may be one
        self.changes = changes_of(checkpoint, settings)
        say_missing_best(checkpoint, self.args)

    def apply_to_loaded(self, optimizer: Any, schedule: object, *, own_groups: bool) -> None:
        """Give a loaded optimizer the weight decay that is asked for; say where it keeps other rates.

        Args:
            optimizer: with the state of the checkpoint.
            schedule: likewise.
            own_groups: whether the groups are the ones that were asked for, which DeepSpeed's are not.

        Raises:
            InputError: for a schedule that takes the worse metrics for the better ones, as in version 0.1.0.
        """
        check_own_schedule(schedule, self.args)
        if not own_groups:
            return
        say_kept_rates(rates(optimizer), self._rates)
        for group, weight_decay in zip(optimizer.param_groups, self._weight_decays, strict=True):
            if weight_decay is not None:
                group["weight_decay"] = weight_decay

    def write(self, checkpoint: Path) -> None:
        """Put into a checkpoint what it was trained with."""
        write_settings(checkpoint, self.current(), self._encoder_at_start, self.changes)


def chosen_optimizer(args: MultiTaskTrainingArguments) -> ClassAndOptions | None:
    """Class and options of an optimizer that the Trainer does not know, if `args.optimizer` names one."""
    if args.optimizer is None:
        return None
    options = args.options("optimizer_args")
    return optimizer_class(args.optimizer, options), {"lr": args.learning_rate, **options}
