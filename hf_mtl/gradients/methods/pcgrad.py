"""PCGrad (Yu et al. 2020): conflicting components are projected away."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import unknown_name_error
from ..method import register_gradient_method
from ..solvers import projection_orders

REDUCTIONS = ("sum", "mean")


@register_gradient_method("pcgrad")
def pcgrad_weights(gramian: Tensor, generator: torch.Generator, *, reduction: str = "sum") -> Tensor:
    """PCGrad: each gradient loses its component along every other that it conflicts with, in a random order.

    Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1. A projected gradient is kept as its
    coefficients over the original ones, so all inner products come from the Gramian and no gradient is touched; the
    K gradients are projected side by side, each in its own order.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: CPU generator of the orders; the same state gives the same orders on every rank and device.
        reduction: "sum" adds the projected gradients, as the paper does; "mean" divides by K, so that the step is
            as long as one task's.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name_error("pcgrad reduction", reduction, REDUCTIONS)
    num_tasks = len(gramian)
    gramian = gramian.double()
    squared_norms = gramian.diagonal()
    # A zero gradient conflicts with nothing; the 1 only keeps its quotient finite.
    safe_norms = torch.where(squared_norms > 0, squared_norms, torch.ones_like(squared_norms))
    coefficients = torch.eye(num_tasks, dtype=torch.float64, device=gramian.device)
    task = torch.arange(num_tasks, device=gramian.device)
    for others in projection_orders(num_tasks, generator).to(gramian.device).unbind(dim=1):
        inner = (coefficients * gramian[:, others].T).sum(dim=1)
        coefficients[task, others] -= inner.clamp(max=0) / safe_norms[others]
    weights = coefficients.sum(dim=0)
    return weights if reduction == "sum" else weights / num_tasks
