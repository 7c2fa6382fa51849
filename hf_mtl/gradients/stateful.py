"""Gradient methods that remember earlier steps: `(gramian, generator) -> weights` with a state for checkpoints.

The state is plain numbers and lists, which JSON and torch.save keep to the last bit. Steps whose Gramian is not finite
or all zero leave no trace in it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..validation import check_number
from .solvers import CANCELLED, Array, fair_weights, norms_and_cosines, on_cpu, projection_orders


@runtime_checkable
class Stateful(Protocol):
    """A weighting whose answer depends on the calls before."""

    def __call__(self, gramian: Tensor, generator: torch.Generator) -> Tensor: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class GradVac:
    """GradVac: each gradient is turned towards every other until their cosine is at least what it usually is.

    Wang et al. 2021, "Gradient Vaccine", algorithm 1 over the whole shared model. As in PCGrad the others come in a
    random order and the changed gradients are added, so that a step is as long as a sum of gradients or longer.
    The usual cosine is a moving average per pair that starts at 0, where the method is PCGrad. A zero
    gradient, and a changed one of which nothing is left, has no cosine: its pairs are left as they are.

    Args:
        beta: weight of the newest cosine in the moving average, 0 to 1.
        eps: cosines count as at most 1 - eps, so that rounding between parallel gradients is not amplified: a
            correction is at most 1 / sqrt(2 eps) times the gradient. More than 0, at most 0.1.
    """

    def __init__(self, *, beta: float = 0.01, eps: float = 1e-6) -> None:
        check_number("gradvac beta", beta, "a number from 0 to 1", lambda x: 0 <= x <= 1)
        check_number("gradvac eps", eps, "a number > 0 and <= 0.1", lambda x: 0 < x <= 0.1)
        self.beta, self.eps = beta, eps
        self.targets: Array | None = None

    def __call__(self, gramian: Tensor, generator: torch.Generator) -> Tensor:
        """Weights of the sum of the changed gradients. *Shapes:* (K, K) -> (K,), fp64"""
        orders = projection_orders(len(gramian), generator).numpy()
        return on_cpu(lambda products: self._vaccinate(products, orders), gramian)

    def _vaccinate(self, gramian: Array, orders: np.ndarray[Any, np.dtype[np.int64]]) -> Array:
        norms, cosines = norms_and_cosines(gramian)
        num_tasks = len(norms)
        if self.targets is None:
            self.targets = np.zeros((num_tasks, num_tasks))
        if len(self.targets) != num_tasks:
            raise InputError(f"gradvac remembers {len(self.targets)} tasks, found {num_tasks}; start a new run")
        limit = 1 - self.eps
        task = np.arange(num_tasks)
        changed = np.eye(num_tasks)  # row i: the changed unit gradient of task i over the unit gradients
        for others in orders.T:
            lengths = np.sqrt(np.maximum(((changed @ cosines) * changed).sum(axis=1), 0))
            products = (changed * cosines[:, others].T).sum(axis=1)
            known = (lengths > CANCELLED) & (norms[others] > 0)
            cosine = np.clip(np.divide(products, lengths, out=np.zeros(num_tasks), where=known), -limit, limit)
            target = np.clip(self.targets[task, others], -limit, limit)
            turn = target * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - target**2)
            correction = lengths * turn / np.sqrt(1 - target**2)
            changed[task, others] += np.where(known & (cosine < target), correction, 0)
            self.targets[task, others] += np.where(known, self.beta * (cosine - self.targets[task, others]), 0)
        scaled = changed * norms[:, None]
        return np.divide(scaled, norms, out=np.eye(num_tasks), where=norms > 0).sum(axis=0)

    def state_dict(self) -> dict[str, Any]:
        """The average cosines, none before the first step."""
        return {"targets": None if self.targets is None else self.targets.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.targets = None if state["targets"] is None else np.array(state["targets"], dtype=np.float64)


class NashMTL:
    """Nash-MTL: the Nash bargaining solution, the positive w with G w = 1 / w.

    Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", algorithm 1. Whatever the gradients' size, a step
    is as long as the square root of K, and then shortened to `max_norm`, as in the authors' code; w is unique, and
    solved for exactly instead of in a few rounds from the last one. Where the gradients cancel there is no such w; the
    weights are then large but bounded, see `fair_weights`. A zero gradient has weight 0.

    Args:
        update_every: steps from one solve to the next; those between use the same w, unless a task that had no
            gradient at the solve has one.
        max_norm: longest combined shared gradient; 0 for no limit.
    """

    def __init__(self, *, update_every: int = 1, max_norm: float = 1.0) -> None:
        check_number("nash_mtl update_every", update_every, "a whole number >= 1", lambda x: x >= 1 and x == int(x))
        check_number("nash_mtl max_norm", max_norm, "a number >= 0", lambda x: x >= 0)
        self.update_every, self.max_norm = int(update_every), max_norm
        self.calls = 0
        self.weights: Array | None = None

    def __call__(self, gramian: Tensor, generator: torch.Generator) -> Tensor:
        """Weights of the bargaining solution. *Shapes:* (K, K) -> (K,), fp64"""
        return on_cpu(self._bargain, gramian)

    def _bargain(self, gramian: Array) -> Array:
        if self.weights is not None and len(self.weights) != len(gramian):
            raise InputError(f"nash_mtl remembers {len(self.weights)} tasks, found {len(gramian)}; start a new run")
        due = self.calls % self.update_every == 0
        if self.weights is None or due or (gramian.diagonal() > 0)[self.weights == 0].any():
            self.weights = fair_weights(gramian, 1.0)
        self.calls += 1
        norm = math.sqrt(max(float(self.weights @ gramian @ self.weights), 0.0))
        if self.max_norm > 0 and norm > self.max_norm:
            return self.weights * (self.max_norm / norm)
        return self.weights.copy()

    def state_dict(self) -> dict[str, Any]:
        """The steps so far and the weights of the last solve, none before the first."""
        return {"calls": self.calls, "weights": None if self.weights is None else self.weights.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.calls = state["calls"]
        self.weights = None if state["weights"] is None else np.array(state["weights"], dtype=np.float64)
