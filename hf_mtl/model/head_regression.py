"""The head of a task whose rows have a value each, in a range that the task declares."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .head_linear import LinearHead
from .heads import HeadSpec, register_head
from .pipeline_inputs import BEST, TopK


@register_head("regression")
class RegressionHead(LinearHead):
    """One output, the squared error, a value in the label's range.

    The head works from the middle of the range in fifths of it. The loss of a fresh head is then near 2 whatever the
    label's own unit, so that no task drowns the others, and on a range of 0 to 5 it is the plain squared error.
    """

    label_dtype = torch.float32

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there is a range of two finite numbers."""
        bounds = spec.label_range
        are_numbers = isinstance(bounds, tuple | list) and all(isinstance(each, int | float) for each in bounds)
        if bounds is None or not are_numbers or len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise InputError(f"task {spec.name!r}: label_range is {bounds!r}, wanted [lowest, highest]")
        if spec.labels is not None:
            raise InputError(f"task {spec.name!r}: labels belong to classification; regression declares label_range")

    @classmethod
    def width(cls, spec: HeadSpec) -> int:
        """One output."""
        return 1

    @property
    def label_range(self) -> tuple[float, float]:
        """Lowest and highest label."""
        assert self.spec.label_range is not None
        return self.spec.label_range

    def _centre_and_unit(self) -> tuple[float, float]:
        """The middle of the label's range and a fifth of the range: the origin and the unit in which the head works."""
        low, high = self.label_range
        return (low + high) / 2, (high - low) / 5

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The squared error in fifths of the range, and the rows. *Shapes:* (rows, 1), (rows,)"""
        centre, unit = self._centre_and_unit()
        wanted = (labels.to(self.label_dtype) - centre) / unit
        return F.mse_loss(logits.squeeze(-1).float(), wanted, reduction="sum"), self.num_units(labels)

    def decode(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The value, in the label's range. *Shape:* (rows, 1) -> (rows,)"""
        centre, unit = self._centre_and_unit()
        return (logits.squeeze(-1).float() * unit + centre).clamp(*self.label_range)

    def answer(self, logits: Tensor, mask: Tensor | None = None, top_k: TopK = BEST) -> list[Any]:
        """The value."""
        return [{"value": value} for value in self.decode(logits).tolist()]
