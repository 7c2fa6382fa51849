"""Uncertainty weighting (Kendall et al. 2018): a learned log-variance per task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...validation import check_number
from ..learned_scalars import LearnedScalars
from ..method import GradientMethod, register_gradient_method


@register_gradient_method("uncertainty")
class UncertaintyWeighting(GradientMethod):
    """Uncertainty weighting: the weight exp(-s) with a learned log-variance s per task.

    Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", equation 10: s descends on
    exp(-s) L + s / 2, by an Adam of its own. (The paper's factor 1/2 on squared errors moves s by log 2 and leaves the
    weight that is learned, 1 / (2 L), as it is.) Starts at the summed loss.

    Args:
        lr: learning rate of s. The model's own would hardly move it within a fine-tuning run.
    """

    needs = "losses"

    def __init__(self, *, lr: float = 0.025) -> None:
        check_number("uncertainty lr", lr, "a number > 0", lambda x: x > 0)
        self.log_variances = LearnedScalars("uncertainty", lr)

    def __call__(self, given: Tensor, generator: torch.Generator) -> Tensor:
        """exp(-s). *Shapes:* (K,) -> (K,)."""
        return torch.from_numpy(np.exp(-self.log_variances.values(len(given))))

    def after_step(self, before: Tensor, after: Tensor | None) -> None:
        """Move the log-variances by the losses of a step."""
        losses = before.numpy()
        tasks = np.flatnonzero(np.isfinite(losses))
        weights = np.exp(-self.log_variances.values(len(losses)))
        self.log_variances.descend(0.5 - weights[tasks] * losses[tasks], tasks)

    def state_dict(self) -> dict[str, Any]:
        """The log-variances, with Adam's moments."""
        return self.log_variances.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.log_variances.load_state_dict(state)
