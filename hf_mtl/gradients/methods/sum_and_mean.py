"""The gradients of the summed and of the mean loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import register_gradient_method


@register_gradient_method("sum")
def sum_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """Weight 1 for every task: the gradient of the summed loss.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: not used.

    Returns:
        *Shape:* (K,), fp64, on the Gramian's device, as from every function of this module.
    """
    return torch.ones(len(gramian), dtype=torch.float64, device=gramian.device)


@register_gradient_method("mean")
def mean_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """Weight 1/K for every task: the gradient of the mean loss."""
    return sum_weights(gramian, generator) / len(gramian)
