"""What heads of values share: the label's range, the losses over it, the value as an answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, unknown_name_error
from .heads import Head, HeadSpec
from .pipeline_inputs import BEST, TopK

# Summed over rows. Outputs and labels are in fifths of the range from its middle, for "bce" in log-odds and fractions.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda outputs, wanted: F.mse_loss(outputs, wanted, reduction="sum"),
    "bce": lambda outputs, wanted: F.binary_cross_entropy_with_logits(outputs, wanted, reduction="sum"),
    "mae": lambda outputs, wanted: F.l1_loss(outputs, wanted, reduction="sum"),
    "huber": lambda outputs, wanted: F.huber_loss(outputs, wanted, reduction="sum"),
}


class ValueHead(Head):
    """A head with one output for each row, whose answer is a value in the label's range.

    It works from the middle of the range in fifths of it. The loss of a fresh head is then near 2 whatever the label's
    own unit, so that no task drowns the others, and on a range of 0 to 5 "mse" is the plain squared error. Beyond one
    fifth, "huber" grows in proportion to the error. With "bce" the output is the log-odds of the value as a fraction of
    the range.
    """

    label_dtype = torch.float32
    default_loss = "mse"

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there is a range of two finite numbers, and for a loss that is none."""
        bounds = spec.label_range
        are_numbers = isinstance(bounds, tuple | list) and all(isinstance(each, int | float) for each in bounds)
        if bounds is None or not are_numbers or len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise InputError(f"task {spec.name!r}: label_range is {bounds!r}, wanted [lowest, highest]")
        if spec.labels is not None:
            raise InputError(f"task {spec.name!r}: labels belong to classification; {spec.kind} declares label_range")
        if spec.loss is not None and spec.loss not in LOSSES:
            raise unknown_name_error(f"loss for task {spec.name!r}:", spec.loss, LOSSES)

    @property
    def label_range(self) -> tuple[float, float]:
        """Lowest and highest label."""
        assert self.spec.label_range is not None
        return self.spec.label_range

    @property
    def is_log_odds(self) -> bool:
        """Whether the output is log-odds, not fifths of the range."""
        return self.spec.loss == "bce"

    def _origin_and_unit(self) -> tuple[float, float]:
        """Of labels as the loss takes them: fractions of the range, or fifths of it from its middle."""
        low, high = self.label_range
        return (low, high - low) if self.is_log_odds else ((low + high) / 2, (high - low) / 5)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The task's loss over the range, and the rows. *Shapes:* (rows, 1), (rows,)"""
        origin, unit = self._origin_and_unit()
        wanted = (labels.to(self.label_dtype) - origin) / unit
        return LOSSES[self.spec.loss or self.default_loss](logits.squeeze(-1).float(), wanted), self.num_units(labels)

    def decode(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The value, in the label's range. *Shape:* (rows, 1) -> (rows,)"""
        origin, unit = self._origin_and_unit()
        outputs = logits.squeeze(-1).float()
        return ((outputs.sigmoid() if self.is_log_odds else outputs) * unit + origin).clamp(*self.label_range)

    def answer(self, logits: Tensor, mask: Tensor | None = None, top_k: TopK = BEST) -> list[Any]:
        """The value."""
        return [{"value": value} for value in self.decode(logits).tolist()]
