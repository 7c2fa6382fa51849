"""Aligned-MTL (Senushkin et al. 2023): principal components of one length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import unknown_name_error
from ..method import register_gradient_method
from ..solvers import ROUNDING, Array, solve_in_numpy

SCALES: dict[str, Callable[[Array], Any]] = {
    "min": np.min,
    "median": lambda eigenvalues: np.sort(eigenvalues)[(len(eigenvalues) - 1) // 2],
    "rmse": np.mean,
}


@register_gradient_method("aligned_mtl")
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
        raise unknown_name_error("aligned_mtl scale", scale, SCALES)
    return solve_in_numpy(lambda products: aligned_weights(products, SCALES[scale]), gramian)


def aligned_weights(gramian: Array, common: Callable[[Array], float]) -> Array:
    """Weights of the sum of the gradients whose every principal component has the common eigenvalue. *Shape:* (K,)."""
    eigenvalues, basis = np.linalg.eigh(gramian / gramian.diagonal().max())
    kept = eigenvalues > len(gramian) * ROUNDING * eigenvalues[-1]
    eigenvalues, basis = eigenvalues[kept], basis[:, kept]
    weights: Array = (basis * np.sqrt(common(eigenvalues) / eigenvalues)) @ basis.sum(axis=0)
    return weights
