"""DualProj (Lopez-Paz & Ranzato 2017): the mean's projection on the cone without conflict."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..method import register_gradient_method
from ..solvers import Array, dual_cone_weights, gramian_square_root, solve_in_numpy


@register_gradient_method("dualproj")
def dualproj_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """DualProj: the projection of the mean gradient on the cone of what conflicts with none.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", equation 11, for the mean in place of the newest task's
    gradient. A step is no longer than the mean of the gradients, which it is without conflict.
    """

    def solve(products: Array) -> Array:
        return dual_cone_weights(gramian_square_root(products), np.full(len(products), 1 / len(products)))

    return solve_in_numpy(solve, gramian)
