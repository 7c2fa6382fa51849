"""The small problems behind the gradient methods, in fp64 on the CPU.

A Gramian is worked on as the norms of the gradients and the cosines between them, or as K vectors in K dimensions
that have the same inner products; so gradients of norm 1e-10 beside 1e15 lose nothing to each other.
"""

from __future__ import annotations

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
NEWTON_STEPS = 500  # 10 to 30 are usual; each barrier step at least halves the way, so 1e25 takes about 100


def projection_orders(num_tasks: int, generator: torch.Generator) -> Tensor:
    """For each task the others in a random order. *Shape:* (K, K - 1), int64, on the CPU."""
    orders = [torch.randperm(num_tasks, generator=generator) for _ in range(num_tasks)]
    return torch.stack([order[order != task] for task, order in enumerate(orders)])


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


def fair_weights(gramian: Array, exponent: float) -> Array:
    """The positive w with G w = w^(-exponent), by Newton's method on the convex problem it solves. *Shape:* (K,)

    Where gradients cancel there is no such w. Cosines between different tasks are therefore shrunk by the rounding
    that they carry anyway, which bounds the weights and moves no other answer by more. A zero gradient has weight 0.
    """
    norms, cosines = norms_and_cosines(gramian)
    weights = np.zeros(len(norms))
    present = norms > 0
    norms, cosines = norms[present], positive_definite(cosines[np.ix_(present, present)])
    # w = scale * x, where x is 1 for orthogonal gradients.
    scale = norms ** (-2 / (1 + exponent))
    # (G w)_i w_i^exponent = (interactions @ x)_i x_i^exponent
    lean = norms ** ((exponent - 1) / (exponent + 1))
    weights[present] = scale * _balance(cosines * lean / lean[:, None], exponent)
    return weights


def positive_definite(cosines: Array) -> Array:
    """The nearest cosines that unit vectors can have, those off the diagonal shrunk by `ROUNDING`."""
    eigenvalues, basis = np.linalg.eigh(cosines)
    nearest = (basis * np.maximum(eigenvalues, 0)) @ basis.T
    nearest *= 1 - ROUNDING
    np.fill_diagonal(nearest, 1)
    return nearest


def _balance(interactions: Array, exponent: float) -> Array:
    """Positive x with (interactions @ x)_i x_i^exponent = 1 for every i.

    Newton's step on (interactions @ x)_i - x_i^(-exponent), never further than 9 tenths of the way to 0.
    """
    x = np.ones(len(interactions))
    for _ in range(NEWTON_STEPS):
        barrier = x**-exponent
        slope = interactions + np.diag(exponent * barrier / x)
        # In parts of x, each row relative to its own size, the system is as well-conditioned as the cosines.
        row_size = np.abs(slope * x).max(axis=1)
        step = np.linalg.solve(slope * x / row_size[:, None], (barrier - interactions @ x) / row_size)
        furthest = max(-step.min() / 0.9, 1.0)
        x = x * (1 + step / furthest)
        if np.abs(step).max() < 1e-12:
            break
    return x
