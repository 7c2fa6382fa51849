"""Methods that look at the tasks' losses alone: `losses -> weights`, one number per task.

They need no gradient of a single task, and are therefore right under engines that shard gradients too. What they learn
is plain numbers, which JSON keeps to the last bit, and the same on every process, because the losses are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..validation import check_number

Losses = NDArray[np.float64]
SMALLEST_LOSS = 1e-8  # keeps the logarithm of a loss of zero finite


class LearnedNumbers:
    """One number per task, from 0 on, learned by torch's Adam; tasks without a gradient keep theirs.

    Args:
        learning_rate: Adam's.
        weight_decay: Adam's, the pull to 0.
    """

    def __init__(self, learning_rate: float, weight_decay: float = 0.0) -> None:
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self._start([])

    def _start(self, values: Sequence[float]) -> None:
        self.numbers = [torch.tensor(value, dtype=torch.float64) for value in values]
        self.adam = None
        if self.numbers:
            self.adam = torch.optim.Adam(self.numbers, lr=self.learning_rate, weight_decay=self.weight_decay)

    def values(self, method: str, num_tasks: int) -> Losses:
        """The numbers. *Shape:* (K,)"""
        if not self.numbers:
            self._start([0.0] * num_tasks)
        if len(self.numbers) != num_tasks:
            raise InputError(f"{method} remembers {len(self.numbers)} tasks, found {num_tasks}; start a new run")
        return np.array([number.item() for number in self.numbers])

    def descend(self, gradient: Losses, tasks: Sequence[int]) -> None:
        """One step of Adam on the numbers of `tasks`. *Shape of gradient:* (len(tasks),)"""
        assert self.adam is not None
        for number in self.numbers:
            number.grad = None
        for task, value in zip(tasks, gradient, strict=True):
            self.numbers[task].grad = torch.tensor(value, dtype=torch.float64)
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Numbers and Adam's moments as plain lists."""
        moments = self.adam.state_dict()["state"] if self.adam else {}
        return {
            "numbers": [number.item() for number in self.numbers],
            "moments": {
                str(task): {name: value.item() for name, value in moment.items()} for task, moment in moments.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._start(state["numbers"])
        if self.adam is not None:
            moments = {
                int(task): {
                    # Adam counts its steps in fp32.
                    name: torch.tensor(value, dtype=torch.float32 if name == "step" else torch.float64)
                    for name, value in moment.items()
                }
                for task, moment in state["moments"].items()
            }
            self.adam.load_state_dict({**self.adam.state_dict(), "state": moments})


class FixedWeights:
    """Weight 1 for every task, so that only the tasks' own `loss_weight` counts."""

    looks_back = False

    def __call__(self, losses: Losses, kept: Sequence[int]) -> Losses:
        """Ones for the kept tasks. *Shapes:* (K,) -> (kept,)"""
        return np.ones(len(kept))

    def learn(self, before: Losses, after: Losses | None, kept: Sequence[int]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: nothing is remembered."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class UncertaintyWeighting:
    """Uncertainty weighting: the weight exp(-s) with a learned log-variance s per task.

    Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", equation 10: s descends on
    exp(-s) L + s / 2, by an Adam of its own. (The paper's factor 1/2 on squared errors moves s by log 2 and leaves the
    weight that is learned, 1 / (2 L), as it is.) Starts at the summed loss.

    Args:
        lr: learning rate of s. The model's own would hardly move it within a fine-tuning run.
    """

    looks_back = False

    def __init__(self, *, lr: float = 0.025) -> None:
        check_number("uncertainty lr", lr, "a number > 0", lambda x: x > 0)
        self.log_variances = LearnedNumbers(lr)

    def __call__(self, losses: Losses, kept: Sequence[int]) -> Losses:
        """Weights of the kept tasks. *Shapes:* (K,) -> (kept,)"""
        weights: Losses = np.exp(-self.log_variances.values("uncertainty", len(losses)))[list(kept)]
        return weights

    def learn(self, before: Losses, after: Losses | None, kept: Sequence[int]) -> None:
        """Move the log-variances by the losses (K,) of a step."""
        self.log_variances.descend(0.5 - self(before, kept) * before[list(kept)], kept)

    def state_dict(self) -> dict[str, Any]:
        """The log-variances, with Adam's moments."""
        return self.log_variances.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.log_variances.load_state_dict(state)


class FAMO:
    """FAMO: weights under which the losses shrink at the same rate.

    Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 1. With z the softmax of one logit per
    task, the step follows the gradient of sum(z log L), normalised: weights z / L over their sum. Then the losses of
    the same rows are taken anew, in one more forward without gradients and with the same dropout masks, and the logits
    move so that tasks whose loss shrank least weigh more. Weights sum to 1: a step is as long as a mean.

    Args:
        lr: learning rate of the logits.
        gamma: pull of the logits to 0.
    """

    looks_back = True

    def __init__(self, *, lr: float = 0.025, gamma: float = 0.01) -> None:
        check_number("famo lr", lr, "a number > 0", lambda x: x > 0)
        check_number("famo gamma", gamma, "a number >= 0", lambda x: x >= 0)
        self.logits = LearnedNumbers(lr, weight_decay=gamma)

    def _shares(self, num_tasks: int, kept: Sequence[int]) -> Losses:
        logits = self.logits.values("famo", num_tasks)[list(kept)]
        shares: Losses = np.exp(logits - logits.max())
        return shares / shares.sum()

    def __call__(self, losses: Losses, kept: Sequence[int]) -> Losses:
        """Weights of the kept tasks. *Shapes:* (K,) -> (kept,)"""
        rates = self._shares(len(losses), kept) / (losses[list(kept)] + SMALLEST_LOSS)
        weights: Losses = rates / rates.sum()
        return weights

    def learn(self, before: Losses, after: Losses | None, kept: Sequence[int]) -> None:
        """Move the logits by the losses (K,) of the same rows before and after a step, where both are finite."""
        assert after is not None
        chosen = [task for task in kept if np.isfinite(after[task])]
        if not chosen:
            return
        shrinkage = np.log(before[chosen] + SMALLEST_LOSS) - np.log(after[chosen] + SMALLEST_LOSS)
        shares = self._shares(len(before), chosen)
        self.logits.descend(shares * (shrinkage - shares @ shrinkage), chosen)

    def state_dict(self) -> dict[str, Any]:
        """The logits, with Adam's moments."""
        return self.logits.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.logits.load_state_dict(state)


LossBalancer = FixedWeights | UncertaintyWeighting | FAMO
LOSS_METHODS: dict[str, Callable[..., LossBalancer]] = {
    "fixed": FixedWeights,
    "uncertainty": UncertaintyWeighting,
    "famo": FAMO,
}
