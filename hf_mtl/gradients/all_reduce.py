"""Sums over the processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor


def begin_sum_over_processes(tensors: Iterable[Tensor]) -> list[dist.Work]:
    """Begin to make every tensor the sum of what the processes hold; it is so once all that is returned is done."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return []
    return [dist.all_reduce(tensor, async_op=True) for tensor in tensors]


def sum_over_processes(tensors: Iterable[Tensor]) -> int:
    """Make every tensor the sum of what the processes hold, in place; returns the number of processes."""
    sums = begin_sum_over_processes(tensors)
    for each in sums:
        each.wait()
    return dist.get_world_size() if sums else 1
