"""The head of a task whose rows have any number of labels each."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .head_linear import LinearHead
from .heads import HeadSpec, register_head
from .pipeline_inputs import BEST, TopK

FIT = "fit"
HALF = 0.5  # the threshold of a label unless another is given


@register_head("multi_label")
class MultiLabelHead(LinearHead):
    """A logit per label, the binary cross-entropy, the labels whose probability is above their threshold.

    With `thresholds: fit`, the thresholds are a buffer, which is saved with the weights.
    """

    label_dtype = torch.float32
    options = ("pooling", "thresholds")

    def __init__(
        self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0, **base: Any
    ) -> None:
        super().__init__(spec, encoder_width, pooling, dropout, **base)
        if spec.thresholds == FIT:
            self.register_buffer("fitted_thresholds", torch.full((self.width(spec),), HALF))

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there are different label names, and thresholds that suit them."""
        labels, given = spec.labels, spec.thresholds
        are_names = isinstance(labels, tuple | list) and all(isinstance(label, str) for label in labels)
        if not labels or not are_names or len(set(labels)) < len(labels):
            raise InputError(f"task {spec.name!r}: labels is {labels!r}, wanted one or more different names")
        if spec.label_range is not None:
            raise InputError(f"task {spec.name!r}: label_range belongs to regression; multi_label declares labels")
        if given is None or given == FIT:
            return
        numbers = given if isinstance(given, tuple | list) else [given] * len(labels)
        if len(numbers) != len(labels) or not all(map(_is_share, numbers)):
            raise InputError(
                f"task {spec.name!r}: thresholds is {given!r}, wanted a number from 0 to 1, a list of one for each of "
                f"the {len(labels)} labels, or 'fit'"
            )

    @classmethod
    def width(cls, spec: HeadSpec) -> int:
        """The number of labels."""
        return len(spec.labels or ())

    @property
    def fitted(self) -> str:
        return "thresholds" if self.spec.thresholds == FIT else ""

    def thresholds(self) -> Tensor:
        """Above which probability each label is predicted, in fp32. *Shape:* (labels,)"""
        given = self.spec.thresholds
        if given == FIT:
            found: Any = self.fitted_thresholds
            return found.float()
        numbers = given if isinstance(given, tuple | list) else [HALF if given is None else given] * self.out_features
        return torch.tensor(numbers, dtype=torch.float32, device=self.weight.device)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The binary cross-entropy, a mean over a row's labels, and the rows. *Shapes:* both (rows, labels)"""
        losses = F.binary_cross_entropy_with_logits(logits.float(), labels.to(self.label_dtype), reduction="none")
        return losses.mean(dim=-1).sum(), self.num_units(labels)

    def _over(self, logits: Tensor) -> Tensor:
        """Whether a label is predicted. *Shape:* (rows, labels) -> (rows, labels)"""
        return logits.float().sigmoid() > self.thresholds().to(logits.device)

    def decode(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """1 for every label that a row has, else 0. *Shape:* (rows, labels) -> (rows, labels)"""
        return self._over(logits).long()

    def kept_scores(self, kept: Any) -> Tensor | None:
        """The probability of every label. *Shape:* (rows, labels)"""
        scores: Tensor = kept.double().sigmoid()  # which tells scores apart that are 1 in fp32
        return scores

    def fit(self, kept: Any, labels: Tensor) -> None:
        """Take the thresholds with the best F1 of each label on these rows, where the task asks for it."""
        scores = kept.float().sigmoid()
        if self.spec.thresholds == FIT and len(scores) and scores.isfinite().all():
            best = [best_threshold(*pair) for pair in zip(scores.T, labels.T, strict=True)]
            self.fitted_thresholds: Tensor
            self.fitted_thresholds.copy_(torch.tensor(best))

    def answer(self, logits: Tensor, mask: Tensor | None = None, top_k: TopK = BEST) -> list[Any]:
        """The labels over their thresholds, the likeliest first; or the `top_k` likeliest, or all."""
        names = self.spec.labels
        assert names is not None
        scores, order = logits.sigmoid(), logits.argsort(dim=-1, descending=True, stable=True)
        counts = self._over(logits).tolist()
        answers = []
        for row, places, over in zip(scores.tolist(), order.tolist(), counts, strict=True):
            chosen = [place for place in places if over[place]] if top_k == BEST else places[:top_k]
            answers.append({"labels": [{"label": names[place], "score": row[place]} for place in chosen]})
        return answers


def best_threshold(scores: Tensor, labels: Tensor) -> float:
    """The threshold that has the best F1 where scores above it are predicted.

    Every way in which a threshold can part the rows is tried; it is in the middle between two neighbouring scores, or
    between 0 and the lowest one. Of equally good ones, it is the one nearest to 0.5, and of two as near the lower one.

    Args:
        scores: probabilities in fp32. *Shape:* (rows,)
        labels: 0 or 1. *Shape:* (rows,)

    Returns:
        A number in [0, 1); 0.5 where no row has the label.
    """
    ranked, order = scores.sort(descending=True)
    has_label = (labels > HALF)[order].double()
    right, predicted = has_label.cumsum(0), torch.arange(1, len(scores) + 1)  # with a cut below each row
    f1 = 2 * right / (predicted + has_label.sum())
    below = torch.cat([ranked[1:], ranked.new_zeros(1)])
    middle = ((below.double() + ranked.double()) / 2).float()
    cuts = torch.where(middle < ranked, middle, below)  # between neighbours in fp32, the middle is one of them
    f1 = torch.where(below < ranked, f1, 0.0)  # equal scores are not parted, and nothing is below 0
    if f1.max() == 0:
        return HALF
    best = cuts[f1 == f1.max()].flip(0)  # from the lowest
    return best[(best.double() - HALF).abs().argmin()].item()


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
