"""One vector per row from the vectors of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("mean", "cls", "max")


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per row from the vectors of its tokens; padding has no influence.

    Args:
        hidden: *Shape:* (rows, tokens, width)
        mask: 1 at real tokens, 0 at padding. *Shape:* (rows, tokens)
        how: "mean", "cls" or "max".

    Returns:
        *Shape:* (rows, width)
    """
    if how == "cls":
        return hidden[:, 0]
    real = mask.unsqueeze(-1).bool()
    if how == "max":
        return hidden.masked_fill(~real, torch.finfo(hidden.dtype).min).amax(dim=1)
    return hidden.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
