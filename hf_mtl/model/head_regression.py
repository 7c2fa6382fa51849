"""The head of a task whose rows have a value each, in a range that the task declares."""

from __future__ import annotations

from typing import ClassVar

from .head_linear import LinearHead
from .head_value import ValueHead
from .heads import HeadSpec, register_head


@register_head("regression")
class RegressionHead(ValueHead, LinearHead):
    """One output of a linear layer, the squared error or another loss, a value in the label's range."""

    options: ClassVar[tuple[str, ...]] = (*LinearHead.options, "loss")
    takes_teacher = True

    @classmethod
    def width(cls, spec: HeadSpec) -> int:
        """One output."""
        return 1
