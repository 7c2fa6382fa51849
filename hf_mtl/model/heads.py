"""What a task's head is: the specification that a model saves, the class that every head is, and the heads by kind.

A head is the part of the model that only its task reaches. It encodes the task's rows and turns the encoder's output
into logits, a loss and answers. Nothing else in the package branches on a kind's name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .encoding import Encoded, Texts, encode
from .errors import InputError, unknown_name_error
from .pipeline_inputs import BEST, TopK

HeadClass = TypeVar("HeadClass", bound="type[Head]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What a saved model has to know of a task; it names no data.

    Args:
        name: the task's name; also the head's name in the weights file.
        kind: a key of `HEADS`.
        labels: class names in the order of the logits, where the kind has classes.
        label_range: lowest and highest label, where the kind has values.
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
        if not isinstance(self.kind, str) or self.kind not in HEADS:
            known = unknown_name_error(f"kind for task {self.name!r}:", self.kind, HEADS)
            raise InputError(f"{known}; --plugin FILE.py adds the kinds that a file of yours registers")
        HEADS[self.kind].check(self)


class Head(nn.Module, ABC):
    """The part of the model that only one task reaches: pooling, dropout, layers of its own, the loss.

    Args:
        spec: of the task.
        encoder_width: of the encoder's vectors.
        pooling: the model's, "mean", "cls" or "max"; for a head that has one vector per row.
        dropout: the model's `head_dropout`.
        base: for the next class in the order of bases, where a head is a module of torch too.

    Attributes:
        label_dtype: the dtype in which labels reach `loss`.
    """

    label_dtype: ClassVar[torch.dtype] = torch.long

    def __init__(
        self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0, **base: Any
    ) -> None:
        super().__init__(**base)
        self.spec, self.pooling = spec, pooling
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError when the labels or the range of a specification do not suit the kind."""

    @classmethod
    def encode(
        cls, spec: HeadSpec, rows: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Encoded:
        """Token ids of texts or pairs: the one encoding of training, pipeline and command line."""
        return encode(rows, tokenizer, max_length)

    @abstractmethod
    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The logits. *Shapes:* (rows, tokens, width), (rows, tokens) -> (rows, ...)"""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The loss, summed in fp32, and the number of units that it is summed over; their ratio is the task's loss.

        Args:
            logits: what `forward` gave, on any device.
            labels: in `label_dtype`. *Shape:* (rows, ...)
        """

    def num_units(self, labels: Tensor) -> int | Tensor:
        """The units in `labels`, as `loss` counts them, known before any forward: rows unless overridden."""
        return len(labels)

    @abstractmethod
    def decode(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """A prediction per row, comparable to its label. *Shape:* (rows, ...) -> (rows, ...)"""

    @abstractmethod
    def answer(self, logits: Tensor, mask: Tensor | None = None, top_k: TopK = BEST) -> list[Any]:
        """What pipeline and command line answer for each row; ready for JSON.

        Args:
            logits: finite, in fp32.
            mask: 1 at real tokens. *Shape:* (rows, tokens)
            top_k: the k likeliest labels, None for all, `BEST` for the likeliest alone; where a kind has such.
        """


HEADS: dict[str, type[Head]] = {}  # kind -> class


def register_head(kind: str) -> Callable[[HeadClass], HeadClass]:
    """Make a class the head of a kind; `register_kind` does it for a kind with rows and metrics.

    Raises:
        InputError: for a class that is no head, and for a kind that has another one.
    """

    def register(head: HeadClass) -> HeadClass:
        if not isinstance(head, type) or not issubclass(head, Head):
            raise InputError(f"kind {kind!r}: head is {head!r}, wanted a subclass of Head")
        there = HEADS.get(kind)
        if there is not None and _place_of(there) != _place_of(head):
            raise InputError(f"kind {kind!r} has a head already, {_place_of(there)}; choose another name")
        HEADS[kind] = head
        return head

    return register


def _place_of(head: type[Head]) -> str:
    """Module and name, by which a file that is imported twice is told from another."""
    return f"{head.__module__}.{head.__qualname__}"
