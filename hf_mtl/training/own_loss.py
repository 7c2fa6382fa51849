"""A subclass's `compute_loss`: what it has to take, and what it has to give."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from ..errors import InputError

logger = logging.getLogger(__name__)
SIGNATURE = "compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None)"


def is_stock_loss(compute_loss: Callable[..., Any]) -> bool:
    """True if a trainer's `compute_loss` is the Trainer's, no subclass's and nothing put in its place."""
    return getattr(compute_loss, "__func__", None) is Trainer.compute_loss


def check_own_loss(compute_loss: Callable[..., Any], *, shards: bool) -> None:
    """Check a `compute_loss` of the user's, and say how it is called.

    Args:
        compute_loss: bound to its trainer.
        shards: whether an engine does, whose one forward gives the losses of all tasks.

    Raises:
        InputError: where it could not be called.
    """
    if shards:
        raise InputError(
            "compute_loss is overridden, and DeepSpeed and FSDP take all tasks' losses from one forward of the wrapped "
            "model, without it; use plain data parallelism: accelerate launch --multi_gpu --num_processes N ..."
        )
    signature = inspect.signature(compute_loss)
    try:
        signature.bind("model", {})
        signature.bind("model", {}, return_outputs=True)
    except TypeError as error:
        raise InputError(f"compute_loss{signature}: {error}; wanted {SIGNATURE}") from error
    logger.info(
        "compute_loss is not the Trainer's: in training too, it is called once per task, with "
        "{'task': name, **batch}, and the tasks share no pass"
    )


def check_loss(loss: object, task: str) -> None:
    """Raise InputError unless it is a number that backward can run on, where gradients are on."""
    if not isinstance(loss, Tensor):
        found = f"a {type(loss).__name__}"
    elif loss.ndim:
        found = f"of shape {list(loss.shape)}"
    elif torch.is_grad_enabled() and not loss.requires_grad:
        found = "without a gradient"
    else:
        return
    raise InputError(f"the loss that compute_loss gives for task {task!r} is {found}, wanted its rows' mean, a scalar")


def loss_and_outputs(given: object, task: str) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What `compute_loss` gives with `return_outputs`; InputError unless it is a loss and outputs with logits."""
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping) and "logits" in given[1]):
        raise InputError(
            f"compute_loss(..., return_outputs=True) gives a {type(given).__name__} for task {task!r}, wanted (loss, "
            "outputs), with what the model gave as outputs"
        )
    loss, outputs = given
    check_loss(loss, task)
    return loss, outputs
