"""The head of a task whose rows have one of several classes each, and whose classes have an order.

Proportional odds: P. McCullagh, "Regression Models for Ordinal Data", J. R. Stat. Soc. B 42 (1980), section 2.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .head_classification import ClassificationHead
from .heads import HeadSpec, register_head
from .own_rate import RATE, at_own_rate


@register_head("ordinal")
class OrdinalHead(ClassificationHead):
    """One score per row, K - 1 cut points in order, and log P(class) as logits; the loss is its negative.

    P(class <= k) = sigmoid(cut_k - score). The first cut point is fixed, as the score has a bias; each other one is the
    softplus of a parameter above the one before. Fresh ones give the lowest and the highest class the probability
    1 / K at a score of 0, and those between equal gaps.

    Attributes:
        gaps: a hundredth of the numbers whose softplus are the distances of the cut points, which so learn at 100
            times the rate; None for two classes. *Shape:* (classes - 2,)
    """

    options: ClassVar[tuple[str, ...]] = ("pooling", "pair_encoding", "class_weights")
    gaps: nn.Parameter | None

    def __init__(
        self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0, **base: Any
    ) -> None:
        super().__init__(spec, encoder_width, pooling, dropout, **base)
        num_classes = len(spec.labels or ())
        self.first_cut = -math.log(num_classes - 1)
        gaps = None
        if num_classes > 2:
            gap = -2 * self.first_cut / (num_classes - 2)
            gaps = nn.Parameter(torch.full((num_classes - 2,), math.log(math.expm1(gap)) / RATE))
        self.register_parameter("gaps", gaps)

    @classmethod
    def width(cls, spec: HeadSpec) -> int:
        """One score."""
        return 1

    def _unbounded_gaps(self) -> Tensor:
        """The numbers whose softplus are the distances of the cut points. *Shape:* (classes - 2,)"""
        return self.weight.new_zeros(0).float() if self.gaps is None else at_own_rate(self.gaps)

    def cut_points(self) -> Tensor:
        """In order, in fp32. *Shape:* (classes - 1,)"""
        return self.first_cut + F.pad(F.softplus(self._unbounded_gaps()).cumsum(dim=0), (1, 0))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # Head's, not Linear's
        """The classes' log-probabilities, in fp32. *Shapes:* (rows, tokens, width), (rows, tokens) -> (rows, classes)

        log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a)), which no score, however
        large, makes infinite; a - b is the softplus of x, and log(1 - exp(-softplus(x))) = logsigmoid(x).
        """
        return self.log_probabilities(super().forward(hidden, mask))

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """The classes' log-probabilities of scores. *Shape:* (rows, 1) -> (rows, classes)"""
        distances = self.cut_points() - scores.float()
        below = F.pad(F.logsigmoid(distances), (0, 1))  # log P(class <= k), which is 0 for the highest
        above = F.pad(F.logsigmoid(-distances), (1, 0))  # log P(class >= k), which is 0 for the lowest
        return below + above + F.pad(F.logsigmoid(self._unbounded_gaps()), (1, 1))

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The negative log-likelihood, each row's times its class's weight, and the rows.

        *Shapes:* (rows, classes), (rows,)
        """
        labels = labels.to(self.label_dtype)
        return F.nll_loss(logits.float(), labels, weight=self._weights(), reduction="sum"), self.num_units(labels)
