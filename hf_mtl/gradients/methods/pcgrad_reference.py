"""PCGrad as pytorch_optimizer computes it, the oracle of `pcgrad`."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from ..method import GradientMethod, register_gradient_method


@register_gradient_method("pcgrad_reference")
class PCGradReference(GradientMethod):
    """PCGrad by `PCGrad.project_conflicting` of pytorch_optimizer, on copies of the gradients.

    Args:
        reduction: "sum" or "mean" of the projected gradients.
    """

    needs = "rows"

    def __init__(self, *, reduction: str = "sum") -> None:
        self.reduction = reduction

    def __call__(self, given: Tensor, generator: torch.Generator) -> Tensor:
        """The combined gradient. *Shapes:* (K, P) -> (P,)."""
        from pytorch_optimizer import PCGrad  # late: it takes a while to import

        surgeon = PCGrad(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), reduction=self.reduction)
        state = random.getstate()
        random.seed(generator.initial_seed())  # it shuffles with the global generator
        try:
            rows = list(given)
            combined: Tensor = surgeon.project_conflicting(rows, [torch.ones_like(row) for row in rows])
        finally:
            random.setstate(state)
        return combined
