"""The end of a step: the tasks' gradients become what the optimizer reads, as a gradient method says."""

from __future__ import annotations

import torch
from torch import Tensor

from ..seeding import seeded_generator
from .method import GradientMethod
from .task_gradients import TaskGradients


def combine_gradients(gradients: TaskGradients, method: GradientMethod, seed: int, step: int) -> None:
    """Write `.grad` everywhere from the reduced gradients of the tasks that are not left out."""
    generator = seeded_generator(seed, step)
    if not gradients.finite_tasks:
        gradients.write_nothing()
    elif method.needs == "rows":
        gradients.write(method(gradients.mean_rows(), generator))
    elif method.needs == "gramian":
        gradients.write_weighted(_weights_from_gramian(gradients, method, generator))
    else:
        weights = method(gradients.finite_losses(), generator)
        gradients.write_weighted(weights[gradients.finite_tasks], heads_too=True)


def _weights_from_gramian(gradients: TaskGradients, method: GradientMethod, generator: torch.Generator) -> Tensor:
    """One weight per finite task. *Shape:* (finite tasks,)."""
    if gradients.overflow:  # any weights do: the scaler will skip the step
        return torch.ones(len(gradients.finite_tasks))
    gramian = gradients.gramian()
    if not method.state_dict():
        return method(gramian, generator)
    # A method with a state knows tasks by their place: those that are left out count as zero.
    finite = torch.tensor(gradients.finite_tasks, device=gramian.device)
    padded = gramian.new_zeros(len(gradients.tasks), len(gradients.tasks))
    padded[finite[:, None], finite] = gramian
    return method(padded, generator)[finite]
