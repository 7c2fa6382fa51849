"""How the tasks' gradients are combined: pure functions from the Gramian of the gradients to one weight per task.

The combined gradient of every method here is a weighted sum of the task gradients, and the weights depend on the
gradients' inner products alone. A method is therefore `(gramian (K, K), generator) -> weights (K,)`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .errors import InputError, unknown

Weighting = Callable[[Tensor, torch.Generator], Tensor]
REDUCTIONS = ("sum", "mean")


def sum_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """Weight 1 for every task: the gradient of the summed loss.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: not used.

    Returns:
        *Shape:* (K,), fp64, on the Gramian's device, as from every function of this module.
    """
    return torch.ones(len(gramian), dtype=torch.float64, device=gramian.device)


def mean_weights(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """Weight 1/K for every task: the gradient of the mean loss."""
    return sum_weights(gramian, generator) / len(gramian)


def pcgrad_weights(gramian: Tensor, generator: torch.Generator, *, reduction: str = "sum") -> Tensor:
    """PCGrad: each gradient loses its component along every other that it conflicts with, in a random order.

    Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1. A projected gradient is kept as its
    coefficients over the original ones, so all inner products come from the Gramian and no gradient is touched; the
    K gradients are projected side by side, each in its own order.

    Args:
        gramian: inner products of the task gradients. *Shape:* (K, K).
        generator: CPU generator of the orders; the same state gives the same orders on every rank and device.
        reduction: "sum" adds the projected gradients, as the paper does; "mean" divides by K, so that the step is
            as long as one task's.
    """
    if reduction not in REDUCTIONS:
        raise unknown("pcgrad reduction", reduction, REDUCTIONS)
    num_tasks = len(gramian)
    gramian = gramian.double()
    squared_norms = gramian.diagonal()
    # A zero gradient conflicts with nothing; the 1 only keeps its quotient finite.
    safe_norms = torch.where(squared_norms > 0, squared_norms, torch.ones_like(squared_norms))
    coefficients = torch.eye(num_tasks, dtype=torch.float64, device=gramian.device)
    task = torch.arange(num_tasks, device=gramian.device)
    for others in projection_orders(num_tasks, generator).to(gramian.device).unbind(dim=1):
        inner = (coefficients * gramian[:, others].T).sum(dim=1)
        coefficients[task, others] -= inner.clamp(max=0) / safe_norms[others]
    weights = coefficients.sum(dim=0)
    return weights if reduction == "sum" else weights / num_tasks


def projection_orders(num_tasks: int, generator: torch.Generator) -> Tensor:
    """For each task the others in a random order. *Shape:* (K, K - 1), int64, on the CPU."""
    orders = [torch.randperm(num_tasks, generator=generator) for _ in range(num_tasks)]
    return torch.stack([order[order != task] for task, order in enumerate(orders)])


WEIGHTINGS: dict[str, Callable[..., Tensor]] = {"sum": sum_weights, "mean": mean_weights, "pcgrad": pcgrad_weights}


def make_weighting(name: str, /, **options: object) -> Weighting:
    """The weighting `name` with its options bound, e.g. `make_weighting("pcgrad", reduction="mean")`.

    Raises:
        InputError: for a name or an option that does not exist; the message lists those that do.
    """
    if name not in WEIGHTINGS:
        raise unknown("gradient_method", name, WEIGHTINGS)
    check_options(name, WEIGHTINGS[name], options)
    bound = functools.partial(WEIGHTINGS[name], **options)
    bound(torch.eye(2), torch.Generator())  # a wrong value is refused here, not at the first step
    return bound


def check_options(name: str, function: Callable[..., object], options: Mapping[str, object]) -> None:
    """Raise InputError when `options` holds a name that is no keyword-only argument of `function`."""
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known and not known:
            raise InputError(f"gradient_method {name!r} takes no options, found {option!r}")
        if option not in known:
            raise unknown(f"option of gradient_method {name!r}:", option, known)
