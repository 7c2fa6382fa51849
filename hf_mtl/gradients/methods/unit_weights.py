"""The sum of the losses without a look at the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import GradientMethod, register_gradient_method


@register_gradient_method("fixed")
class UnitWeights(GradientMethod):
    """Weight 1 for every task, so that only the tasks' own `loss_weight` counts.

    It is `sum` for engines that shard gradients, and works there.
    """

    needs = "losses"

    def __call__(self, given: Tensor, generator: torch.Generator) -> Tensor:
        """Ones. *Shapes:* (K,) -> (K,)."""
        return torch.ones_like(given)
