"""The head of a task whose rows have one of several classes each."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .head_linear import LinearHead
from .heads import HeadSpec, register_head
from .pipeline_inputs import BEST, TopK


@register_head("classification")
class ClassificationHead(LinearHead):
    """A logit per class, the cross-entropy, the likeliest class."""

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there are two or more different class names."""
        labels = spec.labels
        are_names = isinstance(labels, tuple | list) and all(isinstance(label, str) for label in labels)
        if labels is None or not are_names or len(labels) < 2 or len(set(labels)) != len(labels):
            raise InputError(f"task {spec.name!r}: labels is {labels!r}, wanted two or more different class names")
        if spec.label_range is not None:
            raise InputError(f"task {spec.name!r}: label_range belongs to regression; classification declares labels")

    @classmethod
    def width(cls, spec: HeadSpec) -> int:
        """The number of classes."""
        return len(spec.labels or ())

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The cross-entropy, and the rows. *Shapes:* (rows, classes), (rows,)"""
        return F.cross_entropy(logits.float(), labels.to(self.label_dtype), reduction="sum"), self.num_units(labels)

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
