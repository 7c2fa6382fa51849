"""What several gradient methods solve, in fp64 on the CPU.

A Gramian is worked on as the norms of the gradients and the cosines between them, or as K vectors in K dimensions
that have the same inner products; so gradients of norm 1e-10 beside 1e15 lose nothing to each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

Array = NDArray[np.float64]
# Inner products are summed in fp32: cosines closer than this cannot be told apart.
ROUNDING = float(np.finfo(np.float32).eps)
# Where terms cancel down to this part of their size, a squared norm from the Gramian is nothing but rounding.
CANCELLED = 1e-4


def projection_orders(num_tasks: int, generator: torch.Generator) -> Tensor:
    """For each task the others in a random order. *Shape:* (K, K - 1), int64, on the CPU."""
    orders = [torch.randperm(num_tasks, generator=generator) for _ in range(num_tasks)]
    return torch.stack([order[order != task] for task, order in enumerate(orders)])


def solve_in_numpy(solve: Callable[[Array], Array], gramian: Tensor) -> Tensor:
    """`solve(gramian)` in numpy, back on the Gramian's device; what every method that solves something goes through.

    A Gramian that is not finite gives NaN weights, on which an fp16 scaler skips the step. One that is all zero, as
    while the shared part is frozen, gives 1/K. In neither case is `solve` called.

    Args:
        solve: (K, K) -> (K,), fp64.
        gramian: *Shape:* (K, K).
    """
    products = gramian.detach().cpu().double().numpy()
    if not np.isfinite(products).all():
        weights = np.full(len(products), np.nan)
    elif not products.any():
        weights = np.full(len(products), 1 / len(products))
    else:
        weights = solve(products)
    return torch.from_numpy(weights).to(gramian.device)


def norms_and_cosines(gramian: Array) -> tuple[Array, Array]:
    """The gradients' norms and cosines; a zero gradient has cosine 0 with all, itself too. *Shapes:* (K,), (K, K)."""
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0))
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = np.clip(gramian * inverse[:, None] * inverse, -1, 1)
    np.fill_diagonal(cosines, norms > 0)
    return norms, cosines


def gramian_square_root(gramian: Array) -> Array:
    """K vectors with this Gramian, each exact to its own length. *Shape:* (K, K)."""
    norms, cosines = norms_and_cosines(gramian)
    eigenvalues, basis = np.linalg.eigh(cosines)
    noise = len(gramian) * np.finfo(np.float64).eps * max(eigenvalues[-1], 1)
    roots = np.sqrt(np.where(eigenvalues > noise, eigenvalues, 0))
    return norms[:, None] * basis * roots


def min_norm_weights(vectors: Array) -> Array:
    """Weights of the shortest vector in the convex hull of `vectors`. *Shape:* (K,), >= 0, sum 1.

    Non-negative x that minimises |sum x_i v_i|^2 + (1 - sum x_i)^2 is that point up to a factor, because for every
    direction the best factor leaves q / (1 + q), which grows with the squared norm q. Solved for unit vectors.
    """
    norms = np.linalg.norm(vectors, axis=1)
    zero = norms == 0
    if zero.any():
        return zero / zero.sum()
    shares = norms.min() / norms
    system = np.vstack([(vectors / norms[:, None]).T, shares])
    solution = nonnegative_least_squares(system, np.eye(len(system))[-1]) * shares
    return solution / solution.sum()


def dual_cone_weights(vectors: Array, preference: Array) -> Array:
    """Weights of the projection of `preference @ vectors` on the vectors that conflict with none. *Shape:* (K,).

    The projection adds a non-negative combination of the vectors, the one that makes the sum shortest.
    """
    norms = np.linalg.norm(vectors, axis=1)
    size = np.abs(preference) @ norms
    if size == 0:
        return preference
    present = norms > 0
    units = vectors[present] / norms[present, None]
    weights = preference.copy()
    target = (preference[present] * norms[present] / size) @ units
    weights[present] += nonnegative_least_squares(units.T, -target) * (size / norms[present])
    return weights


def nonnegative_least_squares(system: Array, target: Array) -> Array:
    """The x >= 0 that minimises |system @ x - target|. *Shapes:* (N, K), (N,) -> (K,)."""
    solution, _ = nnls(system, target, maxiter=100 * system.shape[1])
    return solution
