"""FairGrad (Ban & Ji 2024): alpha-fair shares of a step, and the equation behind it and Nash-MTL."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...validation import check_number
from ..method import register_gradient_method
from ..solvers import ROUNDING, Array, norms_and_cosines, solve_in_numpy

NEWTON_STEPS, HALVINGS = 500, 30  # about 10 and 0 are usual


@register_gradient_method("fairgrad")
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
    return solve_in_numpy(lambda products: fair_weights(products, 1 / alpha), gramian)


def fair_weights(gramian: Array, exponent: float) -> Array:
    """The positive w with G w = w^(-exponent). *Shape:* (K,).

    Where gradients cancel there is no such w. Cosines between different tasks are therefore shrunk by the rounding
    that they carry anyway, which bounds the weights and moves no other answer by more. A zero gradient has weight 0.
    """
    norms, cosines = norms_and_cosines(gramian)
    weights = np.zeros(len(norms))
    present = norms > 0
    if present.any():
        lengths = norms[present]
        start = lengths ** ((exponent - 1) / (exponent + 1))
        possible = positive_definite(cosines[np.ix_(present, present)])
        weights[present] = solve_weighted_barrier(possible, start, exponent) / lengths
    return weights


def positive_definite(cosines: Array) -> Array:
    """The nearest cosines that unit vectors can have, those off the diagonal shrunk by `ROUNDING`."""
    eigenvalues, basis = np.linalg.eigh(cosines)
    nearest: Array = (basis * np.maximum(eigenvalues, 0)) @ basis.T * (1 - ROUNDING)
    np.fill_diagonal(nearest, 1)
    return nearest


def solve_weighted_barrier(cosines: Array, start: Array, exponent: float) -> Array:
    """The positive y with (cosines @ y)_i = start_i (start_i / y_i)^exponent; `start` itself for orthogonal gradients.

    It is the minimum of a strictly convex function, found by Newton's method. A step is halved until it is downhill
    all the way or nearly, and goes at most 99 percent of the way to 0.
    """
    y = start.copy()
    for _ in range(NEWTON_STEPS):
        barrier = start * (start / y) ** exponent
        curvature = cosines + np.diag(exponent * barrier / y)
        size = np.sqrt(curvature.diagonal())
        slope = cosines @ y - barrier
        step = np.linalg.solve(curvature / size[:, None] / size, -slope / size) / size
        descent = -slope @ step
        factor = min(1.0, 0.99 / max((-step / y).max(), 1e-300))
        for _ in range(HALVINGS):
            moved = y + factor * step
            if (cosines @ moved - start * (start / moved) ** exponent) @ step <= descent / 2:
                break
            factor /= 2
        y = moved
        if (np.abs(step) / y).max() < 1e-9:  # convergence is quadratic: what is left is the square of that
            break
    return y
