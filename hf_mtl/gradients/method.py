"""Gradient methods at work: from the rows of a step to what the optimizer reads, and what a method remembers."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, unknown
from ..seeding import seeded_generator
from ..validation import check_options
from .balancing import LOSS_METHODS, LossBalancer
from .stateful import Stateful
from .task_gradients import TaskGradients
from .weightings import WEIGHTINGS, Weighting, make_weighting

MEMORY_FILE = "gradient_method.json"


@dataclass(frozen=True)
class Combination:
    """What a gradient method does at the end of a step: `(gradients, seed, step)`, writing `.grad` everywhere.

    Args:
        name: of the method.
        write: does it.
        memory: what the method remembers of earlier steps, where it does.
        balancer: the method itself where it looks at the losses alone.
    """

    name: str
    write: Callable[[TaskGradients, int, int], None]
    memory: Stateful | LossBalancer | None = None
    balancer: LossBalancer | None = None

    def __call__(self, gradients: TaskGradients, seed: int, step: int) -> None:
        self.write(gradients, seed, step)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep, as plain numbers and lists; empty for a method without memory."""
        return self.memory.state_dict() if self.memory else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self.memory:
            self.memory.load_state_dict(state)

    def save(self, checkpoint: Path) -> None:
        """Put what the method remembers, if it does, into a checkpoint."""
        if memory := self.state_dict():
            text = json.dumps({"method": self.name, "memory": memory})
            (checkpoint / MEMORY_FILE).write_text(text, encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """Go on from what `save` put into a checkpoint.

        Raises:
            InputError: when the method remembers and the checkpoint holds nothing of it, or holds another method's.
        """
        file = checkpoint / MEMORY_FILE
        saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"method": None, "memory": {}}
        if saved["method"] not in (None, self.name):
            raise InputError(
                f"resume_from_checkpoint {str(checkpoint)!r} was saved with gradient_method {saved['method']!r}, found "
                f"{self.name!r}; resume with the method it was saved with, or start anew"
            )
        if self.state_dict() and saved["method"] is None:
            raise InputError(
                f"resume_from_checkpoint {str(checkpoint)!r} holds no state of gradient_method {self.name!r}; resume "
                "with the method it was saved with, or start anew"
            )
        self.load_state_dict(saved["memory"])


def _combine_by_weights(gradients: TaskGradients, seed: int, step: int, *, weighting: Weighting) -> None:
    if not gradients.kept:
        gradients.write_nothing()
    elif gradients.overflow:  # any weights do: the scaler will skip the step
        gradients.write_weighted(torch.ones(len(gradients.kept)))
    else:
        gradients.write_weighted(_weights_of_kept(gradients, weighting, seeded_generator(seed, step)))


def _weights_of_kept(gradients: TaskGradients, weighting: Weighting, generator: torch.Generator) -> Tensor:
    """One weight per kept task. A weighting with memory sees all tasks, those left out as zero. *Shape:* (kept,)"""
    gramian = gradients.gramian()
    if not isinstance(weighting, Stateful):
        return weighting(gramian, generator)
    kept = torch.tensor(gradients.kept, device=gramian.device)
    padded = gramian.new_zeros(len(gradients.tasks), len(gradients.tasks))
    padded[kept[:, None], kept] = gramian
    return weighting(padded, generator)[kept]


def _combine_by_losses(gradients: TaskGradients, seed: int, step: int, *, balancer: LossBalancer) -> None:
    if not gradients.kept:
        gradients.write_nothing()
    else:
        weights = balancer(gradients.mean_losses().numpy(), gradients.kept)
        gradients.write_weighted(torch.from_numpy(weights), heads_too=True)


def _pcgrad_reference(gradients: TaskGradients, seed: int, step: int, *, reduction: str = "sum") -> None:
    """PCGrad as pytorch_optimizer computes it, from copies of the rows; its shuffle is seeded by (seed, step)."""
    if not gradients.kept:
        return gradients.write_nothing()
    from pytorch_optimizer import PCGrad  # late: it takes a while to import

    surgeon = PCGrad(torch.optim.SGD(gradients.shared or gradients.heads[gradients.tasks[0]]), reduction=reduction)
    rows = gradients.mean_rows()
    state = random.getstate()
    random.seed(f"{seed}/{step}")
    try:
        combined = surgeon.project_conflicting(rows, [torch.ones_like(row) for row in rows])
    finally:
        random.setstate(state)
    gradients.write(combined)


GRADIENT_METHODS = (*WEIGHTINGS, "pcgrad_reference", *LOSS_METHODS)


def make_combination(method: str, /, **options: object) -> Combination:
    """The gradient method of that name with its options.

    Args:
        method: a name of `WEIGHTINGS` or `LOSS_METHODS`, or "pcgrad_reference" for pytorch_optimizer's own projection.
        options: the method's own.

    Raises:
        InputError: for an unknown method or option, or a value that the method does not take.
    """
    if method not in GRADIENT_METHODS:
        raise unknown("gradient_method", method, GRADIENT_METHODS)
    if method == "pcgrad_reference":
        check_options(method, _pcgrad_reference, options)
        return Combination(method, functools.partial(_pcgrad_reference, **options))  # type: ignore[arg-type]
    if method in LOSS_METHODS:
        check_options(method, LOSS_METHODS[method], options)
        balancer = LOSS_METHODS[method](**options)
        return Combination(method, functools.partial(_combine_by_losses, balancer=balancer), balancer, balancer)
    weighting = make_weighting(method, **options)
    memory = weighting if isinstance(weighting, Stateful) else None
    return Combination(method, functools.partial(_combine_by_weights, weighting=weighting), memory)
