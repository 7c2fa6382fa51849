"""UPGrad (Quinton & Rey 2024): the mean of projections on the cone without conflict."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..method import register_gradient_method
from ..solvers import Array, dual_cone_weights, gramian_square_root, solve_in_numpy


@register_gradient_method("upgrad")
def upgrad_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """UPGrad: the mean of the gradients' projections on the cone of what conflicts with none.

    Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", equation 5, by their proposition 1. A step
    is as long as a mean of the gradients, which it is without conflict.
    """

    def solve(products: Array) -> Array:
        vectors, shares = gramian_square_root(products), np.eye(len(products)) / len(products)
        return np.sum([dual_cone_weights(vectors, share) for share in shares], axis=0)

    return solve_in_numpy(solve, gramian)
