"""FAMO (Liu et al. 2023): weights under which the losses shrink at the same rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...validation import check_number
from ..learned_scalars import LearnedScalars
from ..method import GradientMethod, register_gradient_method

SMALLEST_LOSS = 1e-8  # keeps the logarithm of a loss of zero finite


@register_gradient_method("famo")
class FAMO(GradientMethod):
    """FAMO: weights under which the losses shrink at the same rate.

    Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 1. With z the softmax of one logit per
    task, the step follows the gradient of sum(z log L), normalised: weights z / L over their sum. Then the losses of
    the same rows are taken anew, in one more forward without gradients and with the same dropout masks, and the logits
    move so that tasks whose loss shrank least weigh more. Weights sum to 1: a step is as long as a mean.

    Args:
        lr: learning rate of the logits.
        gamma: pull of the logits to 0.
    """

    needs = "losses_after_step"

    def __init__(self, *, lr: float = 0.025, gamma: float = 0.01) -> None:
        check_number("famo lr", lr, "a number > 0", lambda x: x > 0)
        check_number("famo gamma", gamma, "a number >= 0", lambda x: x >= 0)
        self.logits = LearnedScalars("famo", lr, weight_decay=gamma)

    def _shares(self, num_tasks: int, tasks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Softmax of the logits of some tasks. *Shape:* (len(tasks),)."""
        logits = self.logits.values(num_tasks)[tasks]
        shares: NDArray[np.float64] = np.exp(logits - logits.max())
        return shares / shares.sum()

    def __call__(self, given: Tensor, generator: torch.Generator) -> Tensor:
        """Weights of the tasks whose loss is finite, 0 for the others. *Shapes:* (K,) -> (K,)."""
        losses = given.numpy()
        tasks = np.flatnonzero(np.isfinite(losses))
        rates = self._shares(len(losses), tasks) / (losses[tasks] + SMALLEST_LOSS)
        weights = np.zeros(len(losses))
        weights[tasks] = rates / rates.sum()
        return torch.from_numpy(weights)

    def after_step(self, before: Tensor, after: Tensor | None) -> None:
        """Move the logits by the losses of the same rows before and after a step, where both are finite."""
        assert after is not None
        old, new = before.numpy(), after.numpy()
        tasks = np.flatnonzero(np.isfinite(old) & np.isfinite(new))
        if not len(tasks):
            return
        shrinkage = np.log(old[tasks] + SMALLEST_LOSS) - np.log(new[tasks] + SMALLEST_LOSS)
        shares = self._shares(len(old), tasks)
        self.logits.descend(shares * (shrinkage - shares @ shrinkage), tasks)

    def state_dict(self) -> dict[str, Any]:
        """The logits, with Adam's moments."""
        return self.logits.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.logits.load_state_dict(state)
