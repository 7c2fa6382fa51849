"""A head of one linear layer over a row's pooled vector, or over features of a pair's two."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from .heads import Head, HeadSpec
from .pooling import pair_features, pool

NUM_PAIR_FEATURES = 4


class LinearHead(Head, nn.Linear):
    """Pooling, dropout and a linear layer, `weight` and `bias`; a subclass gives the width and the loss.

    With `pair_encoding: separate` each text of a pair goes through the encoder by itself, and the layer reads
    `pair_features` of their vectors.
    """

    options: ClassVar[tuple[str, ...]] = ("pooling", "pair_encoding")

    def __init__(
        self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0, **base: Any
    ) -> None:
        features = encoder_width * (NUM_PAIR_FEATURES if spec.reads_apart else 1)
        sizes = {"in_features": features, "out_features": self.width(spec)}
        super().__init__(spec, encoder_width, pooling, dropout, **sizes, **base)

    @classmethod
    @abstractmethod
    def width(cls, spec: HeadSpec) -> int:
        """The number of outputs."""

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # Head's, not Linear's
        """The logits. *Shapes:* (sequences, tokens, width), (sequences, tokens) -> (rows, outputs)"""
        vectors = pool(hidden, mask, self.pooling)
        features = pair_features(vectors) if self.spec.reads_apart else vectors
        return nn.Linear.forward(self, self.dropout(features))
