"""The small problems behind the gradient methods, in fp64 on the CPU.

A Gramian is worked on as the norms of the gradients and the cosines between them, or as K vectors in K dimensions
that have the same inner products; so gradients of norm 1e-10 beside 1e15 lose nothing to each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, nnls
from torch import Tensor

Array = NDArray[np.float64]
# Inner products are summed in fp32: cosines closer than this cannot be told apart.
ROUNDING = float(np.finfo(np.float32).eps)
# Where terms cancel down to this part of their size, a squared norm from the Gramian is nothing but rounding.
CANCELLED = 1e-4
NEWTON_STEPS, HALVINGS = 500, 30  # about 10 and 0 are usual


def projection_orders(num_tasks: int, generator: torch.Generator) -> Tensor:
    """For each task the others in a random order. *Shape:* (K, K - 1), int64, on the CPU."""
    orders = [torch.randperm(num_tasks, generator=generator) for _ in range(num_tasks)]
    return torch.stack([order[order != task] for task, order in enumerate(orders)])


def on_cpu(solve: Callable[[Array], Array], gramian: Tensor) -> Tensor:
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
    """The gradients' norms and cosines; a zero gradient has cosine 0 with all, itself too. *Shapes:* (K,), (K, K)"""
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0))
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = np.clip(gramian * inverse[:, None] * inverse, -1, 1)
    np.fill_diagonal(cosines, norms > 0)
    return norms, cosines


def vectors_like(gramian: Array) -> Array:
    """K vectors with this Gramian, each exact to its own length. *Shape:* (K, K)"""
    norms, cosines = norms_and_cosines(gramian)
    eigenvalues, basis = np.linalg.eigh(cosines)
    noise = len(gramian) * np.finfo(np.float64).eps * max(eigenvalues[-1], 1)
    roots = np.sqrt(np.where(eigenvalues > noise, eigenvalues, 0))
    return norms[:, None] * basis * roots


def min_norm_weights(vectors: Array) -> Array:
    """Weights of the shortest vector in the convex hull of `vectors`. *Shape:* (K,), >= 0, sum 1

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
    """Weights of the projection of `preference @ vectors` on the vectors that conflict with none. *Shape:* (K,)

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
    """x >= 0 that minimises |system @ x - target|. *Shapes:* (N, K), (N,) -> (K,)"""
    solution, _ = nnls(system, target, maxiter=100 * system.shape[1])
    return solution


def conflict_averse_weights(vectors: Array, radius: float) -> Array:
    """Weights of the d within `radius` times |mean| of the mean that maximises the least inner product. *Shape:* (K,)

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


def equal_projection_weights(gramian: Array) -> Array:
    """Weights with sum 1 whose combination projects equally on all gradients, 0 if there are none. *Shape:* (K,)"""
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


def aligned_weights(gramian: Array, common: Callable[[Array], float]) -> Array:
    """Weights of the sum of the gradients whose every principal component has the common eigenvalue. *Shape:* (K,)"""
    eigenvalues, basis = np.linalg.eigh(gramian / gramian.diagonal().max())
    kept = eigenvalues > len(gramian) * ROUNDING * eigenvalues[-1]
    eigenvalues, basis = eigenvalues[kept], basis[:, kept]
    weights: Array = (basis * np.sqrt(common(eigenvalues) / eigenvalues)) @ basis.sum(axis=0)
    return weights


def fair_weights(gramian: Array, exponent: float) -> Array:
    """The positive w with G w = w^(-exponent). *Shape:* (K,)

    Where gradients cancel there is no such w. Cosines between different tasks are therefore shrunk by the rounding
    that they carry anyway, which bounds the weights and moves no other answer by more. A zero gradient has weight 0.
    """
    norms, cosines = norms_and_cosines(gramian)
    weights = np.zeros(len(norms))
    present = norms > 0
    if present.any():
        lengths = norms[present]
        start = lengths ** ((exponent - 1) / (exponent + 1))
        weights[present] = balance(positive_definite(cosines[np.ix_(present, present)]), start, exponent) / lengths
    return weights


def positive_definite(cosines: Array) -> Array:
    """The nearest cosines that unit vectors can have, those off the diagonal shrunk by `ROUNDING`."""
    eigenvalues, basis = np.linalg.eigh(cosines)
    nearest: Array = (basis * np.maximum(eigenvalues, 0)) @ basis.T * (1 - ROUNDING)
    np.fill_diagonal(nearest, 1)
    return nearest


def balance(cosines: Array, start: Array, exponent: float) -> Array:
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
