"""The head of a task whose rows have one of several classes each."""

from __future__ import annotations

import logging
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .head_linear import LinearHead
from .heads import HeadSpec, register_head
from .pipeline_inputs import BEST, TopK

logger = logging.getLogger(__name__)
BALANCED = "balanced"


@register_head("classification")
class ClassificationHead(LinearHead):
    """A logit per class, the cross-entropy, the likeliest class.

    Attributes:
        class_weights: a buffer, where the task has this option: the factor on the loss of each class's rows.
            *Shape:* (classes,)
    """

    options: ClassVar[tuple[str, ...]] = (*LinearHead.options, "class_weights", "label_smoothing")
    takes_teacher = True
    class_weights: Tensor | None

    def __init__(
        self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0, **base: Any
    ) -> None:
        super().__init__(spec, encoder_width, pooling, dropout, **base)
        given, weights = spec.class_weights, None
        if given is not None:
            factors = [1.0] * len(spec.labels or ()) if isinstance(given, str) else list(given)
            weights = torch.tensor(factors, dtype=torch.float32)
        self.register_buffer("class_weights", weights)

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there are two or more different class names, and for options that are none."""
        labels = spec.labels
        are_names = isinstance(labels, tuple | list) and all(isinstance(label, str) for label in labels)
        if labels is None or not are_names or len(labels) < 2 or len(set(labels)) != len(labels):
            raise InputError(f"task {spec.name!r}: labels is {labels!r}, wanted two or more different class names")
        if spec.label_range is not None:
            raise InputError(f"task {spec.name!r}: label_range belongs to regression; {spec.kind} declares labels")
        _check_weights(spec, len(labels))
        smoothing = spec.label_smoothing
        if smoothing is not None and (not _is_number(smoothing) or not 0 <= smoothing < 1):
            raise InputError(f"task {spec.name!r}: label_smoothing is {smoothing!r}, wanted a number in [0, 1)")

    @classmethod
    def width(cls, spec: HeadSpec) -> int:
        """The number of classes."""
        return len(spec.labels or ())

    def prepare(self, labels: Any) -> None:
        """Balance the class weights: n / (K n_c) for class c of K, of which n_c of the n training rows are.

        With them, every class has the same share of the loss of all training rows, and the mean weight of these is 1.
        A class that never occurs has the weight 1.
        """
        if self.class_weights is None or self.spec.class_weights != BALANCED:
            return
        names = self.spec.labels or ()
        counts = torch.bincount(torch.as_tensor(labels[:]).long(), minlength=len(names))
        if absent := [name for name, count in zip(names, counts.tolist(), strict=True) if not count]:
            logger.warning(
                "task %r: no training row has the label %s, so class_weights: balanced gives it the weight 1",
                self.spec.name,
                ", ".join(map(repr, absent)),
            )
        weights = counts.sum() / (len(names) * counts.clamp(min=1).double())
        self.class_weights.copy_(torch.where(counts > 0, weights, torch.ones_like(weights)))

    def _weights(self) -> Tensor | None:
        """The class weights in fp32, if there are any. *Shape:* (classes,)"""
        return None if self.class_weights is None else self.class_weights.float()

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The cross-entropy, and the rows. *Shapes:* (rows, classes), (rows,) or (rows, classes)

        Class weights and label smoothing are torch's, but for the divisor: rows, and not the weights' sum, so that a
        task's share in the joint gradient does not depend on the classes that a batch happens to have. Labels of
        (rows, classes) are what `mix` gave, which has both in it.
        """
        if labels.ndim == 2:
            return F.cross_entropy(logits.float(), labels, reduction="sum"), self.num_units(labels)
        total = F.cross_entropy(
            logits.float(),
            labels.to(self.label_dtype),
            weight=self._weights(),
            label_smoothing=self.spec.label_smoothing or 0.0,
            reduction="sum",
        )
        return total, self.num_units(labels)

    def teach(self, logits: Tensor) -> Tensor:
        """The probabilities. *Shape:* (rows, classes) -> (rows, classes)"""
        return logits.float().softmax(dim=-1)

    def mix(self, labels: Tensor, taught: Tensor, share: float) -> Tensor:
        """The factor on each class's negative log-likelihood. *Shapes:* (rows,), (rows, classes) -> (rows, classes)

        Without options it is the distribution `share * taught + (1 - share) * one_hot(labels)`. A class weight is on
        the loss of its class's rows, the teacher's share of it too. Label smoothing is of the row's own label alone:
        what a teacher says is smooth already.
        """
        labels = labels.to(self.label_dtype)
        weights = torch.ones_like(taught[0]) if self.class_weights is None else self.class_weights.float()
        of_rows, smoothing = weights[labels].unsqueeze(-1), self.spec.label_smoothing or 0.0
        own = (1 - smoothing) * of_rows * F.one_hot(labels, len(weights)) + smoothing / len(weights) * weights
        return share * of_rows * taught + (1 - share) * own

    def decode(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The index of the likeliest class. *Shape:* (rows, classes) -> (rows,)"""
        return logits.argmax(dim=-1)

    def answer(self, logits: Tensor, mask: Tensor | None = None, top_k: TopK = BEST) -> list[Any]:
        """The likeliest label with its probability, or a list of the `top_k` likeliest."""
        names = self.spec.labels
        assert names is not None
        scores, classes = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        most = 1 if top_k == BEST else top_k
        ranked = [
            [{"label": names[label], "score": score} for label, score in zip(*row, strict=True)]
            for row in zip(classes[:, :most].tolist(), scores[:, :most].tolist(), strict=True)
        ]
        return [row[0] for row in ranked] if top_k == BEST else ranked


def _check_weights(spec: HeadSpec, num_classes: int) -> None:
    """Raise InputError unless `class_weights` is nothing, "balanced", or a positive number for each class."""
    given = spec.class_weights
    if given is None or given == BALANCED:
        return
    are_weights = isinstance(given, tuple | list) and all(_is_number(each) and each > 0 for each in given)
    if not are_weights or len(given) != num_classes:
        found = list(given) if isinstance(given, tuple) else given
        raise InputError(
            f"task {spec.name!r}: class_weights is {found!r}, wanted {BALANCED!r} or a list of {num_classes} numbers "
            f"above 0, one for each of {list(spec.labels or ())}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
