"""A gradient method of one's own: the task with the longest gradient counts most.

accelerate launch run_glue_mtl.py --plugin examples/plugins/loudest_task.py --gradient_method loudest_task ...
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mtl import register_gradient_method


@register_gradient_method("loudest_task")
def loudest_task(gramian: Tensor, generator: torch.Generator, *, sharpness: float = 1.0) -> Tensor:
    """Weights in proportion to a power of the gradients' lengths; they sum to the number of tasks.

    Args:
        gramian: inner products of the tasks' gradients. *Shape:* (K, K)
        generator: not used.
        sharpness: the power; 0 weighs all tasks alike.

    Returns:
        *Shape:* (K,)
    """
    powers = gramian.diagonal().clamp(min=0).sqrt() ** sharpness
    total = powers.sum()
    return powers * len(powers) / total if total > 0 else torch.ones_like(powers)
