"""Nash-MTL (Navon et al. 2022): the Nash bargaining solution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...validation import check_number
from ..method import GradientMethod, register_gradient_method
from ..solvers import Array, solve_in_numpy
from .fairgrad import fair_weights


@register_gradient_method("nash_mtl")
class NashMTL(GradientMethod):
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
        """Weights of the bargaining solution. *Shapes:* (K, K) -> (K,), fp64."""
        return solve_in_numpy(self._bargain, gramian)

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
