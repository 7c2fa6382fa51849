"""How the tasks' gradients are combined: functions from the Gramian of the gradients to one weight per task.

The combined gradient of every method here is a weighted sum of the task gradients, and the weights depend on the
gradients' inner products alone. A method is therefore `(gramian (K, K), generator) -> weights (K,)`. Those that solve
something are as exact as inner products in fp32 allow, for gradients of any size; see `on_cpu` for the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import unknown
from ..validation import check_number, check_options
from . import solvers
from .solvers import Array, on_cpu, projection_orders
from .stateful import GradVac, NashMTL

Weighting = Callable[[Tensor, torch.Generator], Tensor]
REDUCTIONS = ("sum", "mean")
SCALES: dict[str, Callable[[Array], Any]] = {
    "min": np.min,
    "median": lambda eigenvalues: np.sort(eigenvalues)[(len(eigenvalues) - 1) // 2],
    "rmse": np.mean,
}


def sum_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """Weight 1 for every task: the gradient of the summed loss.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: not used.

    Returns:
        *Shape:* (K,), fp64, on the Gramian's device, as from every function of this module.
    """
    return torch.ones(len(gramian), dtype=torch.float64, device=gramian.device)


def mean_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """Weight 1/K for every task: the gradient of the mean loss."""
    return sum_weights(gramian, generator) / len(gramian)


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
        raise unknown("pcgrad reduction", reduction, REDUCTIONS)
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


def mgda_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """MGDA: the shortest vector in the convex hull of the gradients.

    Desideri 2012, "Multiple-gradient descent algorithm"; Sener & Koltun 2018, equation 3, solved exactly instead of
    by their algorithm 2. The weights are >= 0 and sum to 1: a step is no longer than the mean's or any gradient's, and
    0 as soon as one gradient is 0.
    """
    return on_cpu(lambda products: solvers.min_norm_weights(solvers.vectors_like(products)), gramian)


def cagrad_weights(gramian: Tensor, generator: torch.Generator, *, c: float = 0.5) -> Tensor:
    """CAGrad: the direction near the mean gradient along which the worst-off task gains most.

    Liu et al. 2021, "Conflict-Averse Gradient Descent", algorithm 1. A step is 1 - c to 1 + c times as long as the
    mean of the gradients; the authors' code then divides by 1 + c^2, which is left to the learning rate here.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: not used.
        c: radius of the search, as a part of the mean gradient's length; >= 0, and 0 gives the mean.
    """
    check_number("cagrad c", c, "a number >= 0", lambda x: x >= 0)
    return on_cpu(lambda products: solvers.conflict_averse_weights(solvers.vectors_like(products), c), gramian)


def imtl_g_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """IMTL-G: weights with sum 1 whose combined gradient has the same projection on every gradient.

    Liu et al. 2021, "Towards Impartial Multi-task Learning", equation 6, written with the pseudo-inverse of the
    cosines for dependent gradients. A step is as long as a mean of the gradients, but may be much longer, or point
    uphill for all, when the sum that is set to 1 is near 0 or negative. A zero gradient has weight 0; so have all
    when only 0 has equal projections, as between opposite gradients.
    """
    return on_cpu(solvers.equal_projection_weights, gramian)


def aligned_mtl_weights(gramian: Tensor, generator: torch.Generator, *, scale: str = "min") -> Tensor:
    """Aligned-MTL: the sum of the gradients after their principal components were brought to one length.

    Senushkin et al. 2023, "Independent Component Alignment", algorithm 1. As in the authors' code the aligned
    gradients are added, and components below fp32 rounding are left out. With "min" a step is no longer than the sum.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: not used.
        scale: the common squared length: the "min", the (lower) "median" or the mean ("rmse") of the eigenvalues.
    """
    if not isinstance(scale, str) or scale not in SCALES:  # JSON may hold a list
        raise unknown("aligned_mtl scale", scale, SCALES)
    return on_cpu(lambda products: solvers.aligned_weights(products, SCALES[scale]), gramian)


def upgrad_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """UPGrad: the mean of the gradients' projections on the cone of what conflicts with none.

    Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", equation 5, by their proposition 1. A step
    is as long as a mean of the gradients, which it is without conflict.
    """

    def solve(products: Array) -> Array:
        vectors, shares = solvers.vectors_like(products), np.eye(len(products)) / len(products)
        return np.sum([solvers.dual_cone_weights(vectors, share) for share in shares], axis=0)

    return on_cpu(solve, gramian)


def dualproj_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """DualProj: the projection of the mean gradient on the cone of what conflicts with none.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", equation 11, for the mean in place of the newest task's
    gradient. A step is no longer than the mean of the gradients, which it is without conflict.
    """

    def solve(products: Array) -> Array:
        return solvers.dual_cone_weights(solvers.vectors_like(products), np.full(len(products), 1 / len(products)))

    return on_cpu(solve, gramian)


def fairgrad_weights(gramian: Tensor, generator: torch.Generator, *, alpha: float = 1.0) -> Tensor:
    """FairGrad: the positive w with G w = w^(-1/alpha), the alpha-fair share of the tasks in a step.

    Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", equation 4. A step is neither a mean's nor a
    sum's: if all gradients grow r times, it grows r^((1 - alpha) / (1 + alpha)) times, and with alpha = 1 its length
    is always the square root of K. Where the gradients cancel there is no such w; the weights are then large but
    bounded, see `fair_weights`. A zero gradient has weight 0.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: not used.
        alpha: > 0; 1 is proportional fairness, more looks further after the worst-off task.
    """
    check_number("fairgrad alpha", alpha, "a number > 0", lambda x: x > 0)
    return on_cpu(lambda products: solvers.fair_weights(products, 1 / alpha), gramian)


WEIGHTINGS: dict[str, Callable[..., Any]] = {
    "sum": sum_weights,
    "mean": mean_weights,
    "pcgrad": pcgrad_weights,
    "gradvac": GradVac,
    "cagrad": cagrad_weights,
    "mgda": mgda_weights,
    "imtl_g": imtl_g_weights,
    "aligned_mtl": aligned_mtl_weights,
    "upgrad": upgrad_weights,
    "dualproj": dualproj_weights,
    "nash_mtl": NashMTL,
    "fairgrad": fairgrad_weights,
}


def make_weighting(name: str, /, **options: object) -> Weighting:
    """The weighting `name` with its options bound, e.g. `make_weighting("pcgrad", reduction="mean")`.

    A method that remembers earlier steps comes as a fresh `Stateful`, any other as a pure function.

    Raises:
        InputError: for a name or an option that does not exist, and the message lists those that do; for a value that
            the method does not take.
    """
    if name not in WEIGHTINGS:
        raise unknown("gradient_method", name, WEIGHTINGS)
    method = WEIGHTINGS[name]
    check_options(name, method, options)
    if isinstance(method, type):
        return method(**options)
    bound = functools.partial(method, **options)
    bound(torch.eye(2), torch.Generator())  # a wrong value is refused here, not at the first step
    return bound
