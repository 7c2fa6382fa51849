"""Early stopping whose patience outlives a resume."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

logger = logging.getLogger(__name__)


class EarlyStopping(EarlyStoppingCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Stops a run after `early_stopping_patience` evaluations in a row without a new best `metric_for_best_model`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Nothing: what it needs is checked when the trainer is built, and the best model need not be loaded."""

    def check_metric_value(self, args: Any, state: Any, control: Any, metric_value: float) -> None:
        """Count an evaluation; one that is no number is no improvement."""
        if math.isnan(metric_value):
            self.early_stopping_patience_counter += 1
        else:
            super().check_metric_value(args, state, control, metric_value)


class KeepPatience(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Sets every early stopping to what it had counted when the checkpoint was saved, and to 0 in a new run.

    A run that early stopping had ended stays ended.

    Args:
        callbacks: gives all of the trainer's.
    """

    def __init__(self, callbacks: Callable[[], Sequence[TrainerCallback]]) -> None:
        self.callbacks = callbacks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        by_name: dict[str, list[Any]] = {}
        step = state.global_step
        for callback in self.callbacks():
            if isinstance(callback, EarlyStoppingCallback):
                by_name.setdefault(type(callback).__name__, []).append(callback)
        for name, same in by_name.items():
            # Of several of one class, each save appends to what was saved before.
            now = [each.state() for each in same]
            saved = state.stateful_callbacks.setdefault(name, now if len(now) > 1 else now[0])
            saved = saved if isinstance(saved, list) else [saved]
            for callback, kept in zip(same, saved[-len(same) :], strict=False):
                if isinstance(callback, EarlyStopping):  # which may have been restored as it was saved
                    callback.early_stopping_patience = args.early_stopping_patience
                counted = kept["attributes"]["early_stopping_patience_counter"] if step else 0
                callback.early_stopping_patience_counter = counted
                before, patience = kept["args"], callback.early_stopping_patience
                if step and not isinstance(callback, EarlyStopping):  # that of ours is among the settings
                    _say_changes(step, before, callback.state()["args"])
                if counted >= patience:
                    control.should_training_stop = True
                    logger.warning(_why_it_ends(step, counted, patience, before["early_stopping_patience"]))


def _say_changes(step: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            logger.warning("changed from step %d on: %s was %s and is %s", step, name, before[name], now[name])


def _why_it_ends(step: int, counted: int, patience: int, patience_before: int) -> str:
    if counted >= patience_before:
        return f"early stopping had ended this run at step {step}; no further step is trained"
    return (
        f"early_stopping_patience is {patience}, and the last {counted} evaluations up to step {step} brought no new "
        "best one; no further step is trained"
    )
