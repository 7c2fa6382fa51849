"""One learned number per task, kept to the last bit by JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError

Losses = NDArray[np.float64]


class LearnedScalars:
    """One number per task, from 0 on, learned by torch's Adam; tasks without a gradient keep theirs.

    Args:
        method: whose they are, for messages.
        learning_rate: Adam's.
        weight_decay: Adam's, the pull to 0.
    """

    def __init__(self, method: str, learning_rate: float, weight_decay: float = 0.0) -> None:
        self.method, self.learning_rate, self.weight_decay = method, learning_rate, weight_decay
        self._start([])

    def _start(self, values: Sequence[float]) -> None:
        self.numbers = [torch.tensor(value, dtype=torch.float64) for value in values]
        self.adam = None
        if self.numbers:
            self.adam = torch.optim.Adam(self.numbers, lr=self.learning_rate, weight_decay=self.weight_decay)

    def values(self, num_tasks: int) -> Losses:
        """The numbers. *Shape:* (K,)."""
        if not self.numbers:
            self._start([0.0] * num_tasks)
        if len(self.numbers) != num_tasks:
            raise InputError(f"{self.method} remembers {len(self.numbers)} tasks, found {num_tasks}; start a new run")
        return np.array([number.item() for number in self.numbers])

    def descend(self, gradient: Losses, tasks: Sequence[int] | NDArray[np.int64]) -> None:
        """One step of Adam on the numbers of `tasks`. *Shape of gradient:* (len(tasks),)."""
        assert self.adam is not None
        for number in self.numbers:
            number.grad = None
        for task, value in zip(tasks, gradient, strict=True):
            self.numbers[task].grad = torch.tensor(value, dtype=torch.float64)
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Numbers and Adam's moments as plain lists."""
        moments = self.adam.state_dict()["state"] if self.adam else {}
        return {
            "numbers": [number.item() for number in self.numbers],
            "moments": {
                str(task): {name: value.item() for name, value in moment.items()} for task, moment in moments.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._start(state["numbers"])
        if self.adam is not None:
            moments = {
                int(task): {
                    # Adam counts its steps in fp32.
                    name: torch.tensor(value, dtype=torch.float32 if name == "step" else torch.float64)
                    for name, value in moment.items()
                }
                for task, moment in state["moments"].items()
            }
            self.adam.load_state_dict({**self.adam.state_dict(), "state": moments})
