"""CAGrad (Liu et al. 2021): the best worst-off task near the mean gradient."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from ...validation import check_number
from ..method import register_gradient_method
from ..solvers import CANCELLED, Array, dual_cone_weights, gramian_square_root, min_norm_weights, solve_in_numpy


@register_gradient_method("cagrad")
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
    return solve_in_numpy(lambda products: conflict_averse_weights(gramian_square_root(products), c), gramian)


def conflict_averse_weights(vectors: Array, radius: float) -> Array:
    """Weights of the d within `radius` times |mean| of the mean that maximises the least inner product. *Shape:* (K,).

    d = mean + s u, where s is the ball's radius, u the direction of a point h of the convex hull, and h minimises
    h . mean + s |h|. Such an h is the hull's part in the shortest vector of hull + tau * mean for the tau with
    |h| = tau s; |h| - tau s falls with tau, so one root is to be found. Where h is 0, every d of the ball that
    conflicts with none is a maximum: the one closest to the mean is taken.
    """
    norms = np.linalg.norm(vectors, axis=1)
    uniform = np.full(len(norms), 1 / len(norms))
    mean = uniform @ vectors
    ball = radius * np.linalg.norm(mean)
    if ball == 0:
        return uniform

    def hull_weights(log_tau: float) -> Array:
        return min_norm_weights(vectors + np.exp(log_tau) * mean)

    def excess(log_tau: float) -> float:
        return float(np.linalg.norm(hull_weights(log_tau) @ vectors) / (np.exp(log_tau) * ball) - 1)

    lowest = np.log(norms[norms > 0].min() * CANCELLED / ball)
    highest = np.log(norms.max() / ball) + 1
    if excess(lowest) > 0:
        weights = hull_weights(brentq(excess, lowest, highest, xtol=1e-15, rtol=1e-14))
        length = np.linalg.norm(weights @ vectors)
        if length > CANCELLED * (weights @ norms):
            return uniform + ball / length * weights
    return dual_cone_weights(vectors, uniform)
