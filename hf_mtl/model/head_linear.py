"""A head of one linear layer over a row's pooled vector."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from .heads import Head, HeadSpec
from .pooling import pool


class LinearHead(Head, nn.Linear):
    """Pooling, dropout and a linear layer, `weight` and `bias`; a subclass gives the width and the loss."""

    def __init__(
        self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0, **base: Any
    ) -> None:
        sizes = {"in_features": encoder_width, "out_features": self.width(spec)}
        super().__init__(spec, encoder_width, pooling, dropout, **sizes, **base)

    @classmethod
    @abstractmethod
    def width(cls, spec: HeadSpec) -> int:
        """The number of outputs."""

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # Head's, not Linear's
        """The logits. *Shapes:* (rows, tokens, width), (rows, tokens) -> (rows, outputs)"""
        return nn.Linear.forward(self, self.dropout(pool(hidden, mask, self.pooling)))
