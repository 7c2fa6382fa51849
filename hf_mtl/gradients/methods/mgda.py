"""MGDA (Desideri 2012): the shortest vector in the convex hull of the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import register_gradient_method
from ..solvers import gramian_square_root, min_norm_weights, solve_in_numpy


@register_gradient_method("mgda")
def mgda_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """MGDA: the shortest vector in the convex hull of the gradients.

    Desideri 2012, "Multiple-gradient descent algorithm"; Sener & Koltun 2018, equation 3, solved exactly instead of
    by their algorithm 2. The weights are >= 0 and sum to 1: a step is no longer than the mean's or any gradient's, and
    0 as soon as one gradient is 0.
    """
    return solve_in_numpy(lambda products: min_norm_weights(gramian_square_root(products)), gramian)
