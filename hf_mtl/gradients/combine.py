"""The end of a step: the tasks' gradients become what the optimizer reads, as a gradient method says."""

from __future__ import annotations

import torch
from torch import Tensor

from ..seeding import seeded_generator
from .method import GradientMethod, checked_tensor, checked_weights
from .task_gradients import TaskGradients


def combine_gradients(gradients: TaskGradients, method: GradientMethod, seed: int, step: int) -> bool:
    """Write `.grad` everywhere from the reduced gradients of the tasks that are not left out.

    Returns:
        Whether the method gave numbers that are not finite; then no gradient is written, as when no task is left.

    Raises:
        InputError: for a method that gives something else than its `needs` say.
    """
    generator = seeded_generator(seed, step)
    if not gradients.finite_tasks:
        gradients.write_nothing()
        return False
    if method.needs == "rows":
        return not _write_combined(gradients, method, generator)
    weights = _weights(gradients, method, generator)
    if not weights.isfinite().all():
        gradients.write_nothing()
        return True
    gradients.write_weighted(weights, heads_too=method.needs != "gramian")
    return False


def _write_combined(gradients: TaskGradients, method: GradientMethod, generator: torch.Generator) -> bool:
    """Write what a method of rows gives; false, and nothing is written, where it is not finite.

    On a GPU the answer is waited for, once a step and by these methods only: they hold a second copy of the gradients,
    and pytorch_optimizer's waits for each task anyway.
    """
    rows = gradients.mean_rows()
    combined = checked_tensor(method, method(rows, generator), rows.shape[1:]).to(rows)
    if not gradients.overflow and not combined.isfinite().all():  # an overflow is for the scaler to see
        gradients.write_nothing()
        return False
    gradients.write(combined)
    return True


def _weights(gradients: TaskGradients, method: GradientMethod, generator: torch.Generator) -> Tensor:
    """One weight per finite task, on the CPU. *Shape:* (finite tasks,)."""
    if method.needs != "gramian":
        losses = gradients.finite_losses()
        return checked_weights(method, method(losses, generator), len(losses))[gradients.finite_tasks]
    if gradients.overflow:  # any weights do: the scaler will skip the step
        return torch.ones(len(gradients.finite_tasks))
    gramian = gradients.gramian()
    if not method.state_dict():
        return checked_weights(method, method(gramian, generator), len(gramian))
    # A method with a state knows tasks by their place: those that are left out count as zero.
    finite = torch.tensor(gradients.finite_tasks, device=gramian.device)
    padded = gramian.new_zeros(len(gradients.tasks), len(gradients.tasks))
    padded[finite[:, None], finite] = gramian
    return checked_weights(method, method(padded, generator), len(padded))[finite]
