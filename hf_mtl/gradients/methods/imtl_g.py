"""IMTL-G (Liu et al. 2021): equal projections on every gradient."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..method import register_gradient_method
from ..solvers import ROUNDING, Array, norms_and_cosines, solve_in_numpy


@register_gradient_method("imtl_g")
def imtl_g_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """IMTL-G: weights with sum 1 whose combined gradient has the same projection on every gradient.

    Liu et al. 2021, "Towards Impartial Multi-task Learning", equation 6, written with the pseudo-inverse of the
    cosines for dependent gradients. A step is as long as a mean of the gradients, but may be much longer, or point
    uphill for all, when the sum that is set to 1 is near 0 or negative. A zero gradient has weight 0; so have all
    when only 0 has equal projections, as between opposite gradients.
    """
    return solve_in_numpy(equal_projection_weights, gramian)


def equal_projection_weights(gramian: Array) -> Array:
    """Weights with sum 1 whose combination projects equally on all gradients, 0 if there are none. *Shape:* (K,)."""
    norms, cosines = norms_and_cosines(gramian)
    present = norms > 0
    weights = np.zeros(len(norms))
    if present.any():
        inverse = np.linalg.pinv(cosines[np.ix_(present, present)], rcond=len(norms) * ROUNDING, hermitian=True)
        units = inverse.sum(axis=1)  # of the unit gradients, for a projection of 1 on each
        weights[present] = units / norms[present]
        if units.sum() > ROUNDING and abs(weights.sum()) > ROUNDING * np.abs(weights).sum():
            return weights / weights.sum()
    return np.zeros(len(norms))
