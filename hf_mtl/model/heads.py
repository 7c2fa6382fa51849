"""Task kinds: what a head of each kind puts out, its loss, and how its output is read.

A kind is a handful of pure functions. A new kind is one more group of them and one more row in `KINDS`; nothing else
in the package branches on a kind's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError, unknown_name_error

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What a saved model has to know of a task; it names no data.

    Args:
        name: the task's name; also the head's name in the weights file.
        kind: a key of `KINDS`.
        labels: class names in the order of the logits (classification).
        label_range: lowest and highest label (regression).
        num_texts: 1 for a single text, 2 for a pair read as one input.

    Raises:
        InputError: for a name, kind, label list, range or number of texts that cannot be used.
    """

    name: str
    kind: str
    labels: tuple[str, ...] | None = None
    label_range: tuple[float, float] | None = None
    num_texts: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or hasattr(nn.ModuleDict, self.name):
            raise InputError(
                f"task name {self.name!r} cannot be used: wanted a letter, then letters, digits, '_' or '-', at most "
                "64 in all, and no method of torch.nn.ModuleDict"
            )
        if self.num_texts not in (1, 2):
            raise InputError(f"task {self.name!r}: num_texts is {self.num_texts!r}, wanted 1 (a text) or 2 (a pair)")
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise unknown_name_error(f"kind for task {self.name!r}:", self.kind, KINDS)
        KINDS[self.kind].check(self)


@dataclass(frozen=True)
class TaskKind:
    """The functions that make a kind.

    Attributes:
        check: raises InputError when a head's labels or range do not suit the kind.
        head_width: number of outputs of the head.
        loss: `(logits (B, width), labels (B,), head) -> scalar`, the mean over the rows, in fp32.
        decode: `(logits (B, width), head) -> (B,)`, class indices or values in the label's range.
        label_dtype: the dtype in which labels reach `loss`.
        admits: whether a label (class index or value) is one that the head declares.
    """

    check: Callable[[HeadSpec], None]
    head_width: Callable[[HeadSpec], int]
    loss: Callable[[Tensor, Tensor, HeadSpec], Tensor]
    decode: Callable[[Tensor, HeadSpec], Tensor]
    label_dtype: torch.dtype
    admits: Callable[[float, HeadSpec], bool]


def _check_classes(head: HeadSpec) -> None:
    labels = head.labels
    are_names = isinstance(labels, tuple | list) and all(isinstance(label, str) for label in labels)
    if labels is None or not are_names or len(labels) < 2 or len(set(labels)) != len(labels):
        raise InputError(f"task {head.name!r}: labels is {labels!r}, wanted two or more different class names")
    if head.label_range is not None:
        raise InputError(f"task {head.name!r}: label_range belongs to regression; classification declares labels")


def _num_classes(head: HeadSpec) -> int:
    assert head.labels is not None
    return len(head.labels)


def _cross_entropy(logits: Tensor, labels: Tensor, head: HeadSpec) -> Tensor:
    return F.cross_entropy(logits.float(), labels)


def _argmax(logits: Tensor, head: HeadSpec) -> Tensor:
    return logits.argmax(dim=-1)


def _is_class(label: float, head: HeadSpec) -> bool:
    return float(label).is_integer() and 0 <= label < _num_classes(head)


def _check_range(head: HeadSpec) -> None:
    bounds = head.label_range
    are_numbers = isinstance(bounds, tuple | list) and all(isinstance(each, int | float) for each in bounds)
    if bounds is None or not are_numbers or len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise InputError(f"task {head.name!r}: label_range is {bounds!r}, wanted [lowest, highest]")
    if head.labels is not None:
        raise InputError(f"task {head.name!r}: labels belong to classification; regression declares label_range")


def _centre_and_unit(head: HeadSpec) -> tuple[float, float]:
    """The middle of the label's range and a fifth of the range: the origin and the unit in which the head works.

    The loss of a fresh head is then near 2 whatever the label's own unit, so that no task drowns the others, and on a
    range of 0 to 5 it is the plain squared error.
    """
    assert head.label_range is not None
    low, high = head.label_range
    return (low + high) / 2, (high - low) / 5


def _squared_error(logits: Tensor, labels: Tensor, head: HeadSpec) -> Tensor:
    centre, unit = _centre_and_unit(head)
    return F.mse_loss(logits.squeeze(-1).float(), (labels.float() - centre) / unit)


def _value(logits: Tensor, head: HeadSpec) -> Tensor:
    assert head.label_range is not None
    centre, unit = _centre_and_unit(head)
    return (logits.squeeze(-1).float() * unit + centre).clamp(*head.label_range)


def _in_range(label: float, head: HeadSpec) -> bool:
    assert head.label_range is not None
    return head.label_range[0] <= label <= head.label_range[1]


KINDS: dict[str, TaskKind] = {
    "classification": TaskKind(_check_classes, _num_classes, _cross_entropy, _argmax, torch.long, _is_class),
    "regression": TaskKind(_check_range, lambda head: 1, _squared_error, _value, torch.float32, _in_range),
}
