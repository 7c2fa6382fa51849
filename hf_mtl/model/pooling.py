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


def vectors_of_rows(vectors: Tensor, per_row: int) -> Tensor:
    """The vectors of each row's sequences, which stand together. *Shape:* (rows x n, width) -> (rows, n, width)"""
    return vectors.view(-1, per_row, vectors.shape[-1])


def pair_features(vectors: Tensor) -> Tensor:
    """What tells two texts' vectors u and v apart: [u, v, |u - v|, u v] (Conneau et al. 2017, InferSent).

    *Shape:* (2 rows, width) -> (rows, 4 width)
    """
    u, v = vectors_of_rows(vectors, 2).unbind(dim=1)
    return torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
