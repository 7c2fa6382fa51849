"""The Gramian of the tasks' gradients: inner products of long rows."""

from __future__ import annotations

import torch
from torch import Tensor

# Elements whose products are summed in fp32 before the sums are added in fp64. A CPU adds up in few lanes and loses
# digits over long stretches; a GPU adds up in a tree, and short stretches would cost launches.
CPU_STRETCH = 1 << 10
GPU_STRETCH = 1 << 20


def inner_products(rows: Tensor) -> Tensor:
    """The Gramian of flat rows, in fp64 over stretches that are summed in fp32. *Shapes:* (K, P) -> (K, K)."""
    rows = rows.float()
    if rows.device.type == "cpu":  # one pass over the rows for all products
        num_stretches = rows.shape[1] // CPU_STRETCH
        whole = num_stretches * CPU_STRETCH
        stretches = rows[:, :whole].view(len(rows), num_stretches, CPU_STRETCH).transpose(0, 1)
        rest = rows[:, whole:]
        return torch.bmm(stretches, stretches.transpose(1, 2)).double().sum(dim=0) + (rest @ rest.T).double()
    products = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for i, a in enumerate(rows):  # a matrix product of this shape is slower than reading the rows anew
        for j, b in enumerate(rows[: i + 1]):
            parts = [torch.dot(x, y) for x, y in zip(a.split(GPU_STRETCH), b.split(GPU_STRETCH), strict=True)]
            products[i, j] = products[j, i] = torch.stack(parts).double().sum()
    return products
