"""Early stopping whose patience outlives a resume."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
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
        for callback in self.callbacks():
            if isinstance(callback, EarlyStoppingCallback):
                by_name.setdefault(type(callback).__name__, []).append(callback)
        for name, same in by_name.items():
            # Of several of one class, each save appends to what was saved before.
            now = [each.state() for each in same]
            saved = state.stateful_callbacks.setdefault(name, now if len(now) > 1 else now[0])
            saved = saved if isinstance(saved, list) else [saved]
            for callback, kept in zip(same, saved[-len(same) :], strict=False):
                counted = kept["attributes"]["early_stopping_patience_counter"] if state.global_step else 0
                callback.early_stopping_patience_counter = counted
                control.should_training_stop |= counted >= callback.early_stopping_patience
        if control.should_training_stop:
            logger.warning(
                "early stopping had ended this run at step %d; no further step is trained", state.global_step
            )
