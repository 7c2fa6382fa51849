"""The part of the trainer that goes on from a checkpoint with the settings of today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..gradients.method_state import restore_method
from .arguments import MultiTaskTrainingArguments
from .optimizers import optimizer_class
from .resuming import (
    changes_of,
    keep_settings,
    rates,
    refuse_other_optimizer,
    refuse_other_run,
    saved_settings,
    say_kept_rates,
    settings_of,
)
from .step import TaskSteps
from .watched_metric import check_own_schedule, refuse_watchers_without_evaluations


def chosen_optimizer(args: MultiTaskTrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Class and options of an optimizer that the Trainer does not know."""
    assert args.optimizer is not None
    options = args.options("optimizer_args")
    return optimizer_class(args.optimizer, options), {"lr": args.learning_rate, **options}


class ResumableTrainer(TaskSteps):
    """A Trainer that knows what it trains with, and what a checkpoint was trained with.

    Attributes:
        encoder_at_start: fingerprint of the encoder that the trainer was built with, if it was loaded from somewhere.
        optimizer_class: the optimizer's, with its module.
        weight_decays: of the optimizer's groups, as they were asked for.
        rates: of the optimizer's groups, likewise.
        changes: of settings, as [step, setting, before, now].
    """

    encoder_at_start: str | None
    optimizer_class: str
    weight_decays: list[float | None]
    rates: list[float]
    changes: list[list[Any]]

    def compare_with(self, checkpoint: Path) -> None:
        """Refuse a checkpoint of another run; keep, or apply and say, what is changed."""
        config, settings = self.model.config, self.settings()
        refuse_other_run(checkpoint, list(self.tasks), config, self.encoder_at_start, settings)
        restore_method(self.gradient_method, checkpoint)
        if self.optimizer is None and "optimizer class" not in saved_settings(checkpoint):
            cls, options = self._class_of_optimizer()
            refuse_other_optimizer(checkpoint, cls([torch.nn.Parameter(torch.zeros(2, 2))], **options))
        keep_settings(checkpoint, self.args, settings)
        if self.args.optimizer is not None:  # some of its options are no part of the state that is loaded
            self.optimizer_cls_and_kwargs = chosen_optimizer(self.args)
        refuse_watchers_without_evaluations(self.args)  # the schedule may be one
        self.changes = changes_of(checkpoint, settings)

    def settings(self) -> dict[str, Any]:
        """What the result follows from, beside the data and the order of the batches."""
        others = {
            "optimizer class": self.optimizer_class,
            "loss weights": self.loss_weights,
            "sampling weights": {name: spec.sampling_weight for name, spec in self.tasks.items()},
        }
        return settings_of(self.args, self.model.config, others)

    def name_optimizer(self) -> None:
        """Note the optimizer's class when the trainer is built: later, engines put wrappers of theirs around it."""
        cls = type(self.optimizer) if self.optimizer is not None else self._class_of_optimizer()[0]
        self.optimizer_class = f"{cls.__module__}.{cls.__qualname__}"

    def _class_of_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """The optimizer's class and its options; InputError for one that is not installed or lacks an option."""
        if self.optimizer_cls_and_kwargs is not None:
            return self.optimizer_cls_and_kwargs
        try:
            return self.get_optimizer_cls_and_kwargs(self.args, self.model)
        except (ImportError, ValueError) as error:
            raise InputError(f"optim is {self.args.optim.value!r}: {error}") from error

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As in `Trainer`; remembers rates and weight decay that are asked for, which a checkpoint's would replace."""
        optimizer = super().create_optimizer(*args, **kwargs)
        self.rates = rates(optimizer)
        self.weight_decays = [group.get("weight_decay") for group in optimizer.param_groups]
        return optimizer

    def apply_to_what_was_loaded(self) -> None:
        """Give a loaded optimizer the weight decay that is asked for; says where it keeps other rates.

        Raises:
            InputError: for a loaded schedule that takes the worse metrics for the better ones, as in version 0.1.0.
        """
        check_own_schedule(self.lr_scheduler, self.args)
        if not self.is_deepspeed_enabled:
            say_kept_rates(rates(self.optimizer), self.rates)
            for group, weight_decay in zip(self.optimizer.param_groups, self.weight_decays, strict=True):
                if weight_decay is not None:
                    group["weight_decay"] = weight_decay
