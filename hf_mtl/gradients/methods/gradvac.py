"""GradVac (Wang et al. 2021): gradients turned towards the cosines that are usual between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...validation import check_number
from ..method import GradientMethod, register_gradient_method
from ..solvers import CANCELLED, Array, norms_and_cosines, projection_orders, solve_in_numpy


@register_gradient_method("gradvac")
class GradVac(GradientMethod):
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
        """Weights of the sum of the changed gradients. *Shapes:* (K, K) -> (K,), fp64."""
        orders = projection_orders(len(gramian), generator).numpy()
        return solve_in_numpy(lambda products: self._vaccinate(products, orders), gramian)

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
