"""What a task's head is: the specification that a model saves, the class that every head is, and the heads by kind.

A head is the part of the model that only its task reaches. It encodes the task's rows and turns the encoder's output
into logits, a loss and answers. Nothing else in the package branches on a kind's name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .encoding import Encoded, Texts, encode, encode_apart
from .errors import InputError, unknown_name_error
from .pipeline_inputs import BEST, TopK, is_words
from .pooling import POOLINGS

HeadClass = TypeVar("HeadClass", bound="type[Head]")
Kept = Tensor | tuple[Tensor, ...]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def is_task_name(name: object) -> bool:
    """Whether a task, and so its head, may be called so."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and not hasattr(nn.ModuleDict, name)


PAIR_ENCODINGS = ("joint", "separate")
_OF_TRAINING: dict[str, Any] = dict.fromkeys(("class_weights", "label_smoothing", "thresholds"))


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What a task may say of its head; a kind lists in `Head.options` which of these its tasks may have.

    Args:
        pooling: of this task alone, "mean", "cls" or "max"; the model's unless given.
        pair_encoding: "joint", one input of both texts, or "separate", an input for each; the kind's own unless given.
        loss: the name of one of the kind's losses; its first one unless given.
        class_weights: "balanced", or a factor on the loss of each class's rows; all 1 unless given.
        label_smoothing: share of every label that is spread over all classes, in [0, 1); none unless given.
        thresholds: above which a label is predicted: one number, one for each label, or "fit" for those that suit the
            validation rows; 0.5 unless given.
    """

    pooling: str | None = None
    pair_encoding: str | None = None
    loss: str | None = None
    class_weights: str | tuple[float, ...] | None = None
    label_smoothing: float | None = None
    thresholds: str | float | tuple[float, ...] | None = None


OPTIONS = tuple(field.name for field in fields(HeadOptions))


@dataclass(frozen=True, kw_only=True)
class HeadSpec(HeadOptions):
    """What a saved model has to know of a task; it names no data.

    Args:
        name: the task's name; also the head's name in the weights file.
        kind: a key of `HEADS`.
        labels: class names in the order of the logits, where the kind has classes.
        label_range: lowest and highest label, where the kind has values.
        num_texts: 1 for a single text, 2 for a pair.

    Raises:
        InputError: for a value that cannot be used, and for an option of `HeadOptions` that the kind does not have.
    """

    name: str
    kind: str
    labels: tuple[str, ...] | None = None
    label_range: tuple[float, float] | None = None
    num_texts: int = 1

    def __post_init__(self) -> None:
        if not is_task_name(self.name):
            raise InputError(
                f"task name {self.name!r} cannot be used: wanted a letter, then letters, digits, '_' or '-', at most "
                "64 in all, and no method of torch.nn.ModuleDict"
            )
        if self.num_texts not in (1, 2):
            raise InputError(f"task {self.name!r}: num_texts is {self.num_texts!r}, wanted 1 (a text) or 2 (a pair)")
        if not isinstance(self.kind, str) or self.kind not in HEADS:
            known = unknown_name_error(f"kind for task {self.name!r}:", self.kind, HEADS)
            raise InputError(f"{known}; --plugin FILE.py adds the kinds that a file of yours registers")
        self._check_options(HEADS[self.kind])
        HEADS[self.kind].check(self)

    def __repr__(self) -> str:
        names = sorted((field.name for field in fields(self)), key=lambda name: name in OPTIONS)
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return f"HeadSpec({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def as_meant(self, pooling: str) -> HeadSpec:
        """The specification with every default that it leaves out: equal for two that mean the same.

        Args:
            pooling: the model's.
        """
        head = HEADS[self.kind]
        defaults = {"pooling": pooling, "loss": head.default_loss or None}
        if self.num_texts == 2:
            defaults["pair_encoding"] = "joint"
        left_out = {n: v for n, v in defaults.items() if n in head.options and getattr(self, n) is None}
        return replace(self, **left_out)  # type: ignore[arg-type]  # each is a text

    def differences(self, other: HeadSpec, pooling: str) -> dict[str, tuple[Any, Any]]:
        """What keeps the weights of a head from being those of one of another specification: (this, the other).

        Nothing of how the two train does, and not whether a default is written out.

        Args:
            other: of the same task.
            pooling: the model's.
        """
        one, two = (replace(each.as_meant(pooling), **_OF_TRAINING) for each in (self, other))
        both = {field.name: (getattr(one, field.name), getattr(two, field.name)) for field in fields(HeadSpec)}
        return {name: values for name, values in both.items() if values[0] != values[1]}

    def _check_options(self, head: type[Head]) -> None:
        """Raise InputError for an option that the kind does not have, and for a pooling that is none."""
        for name in OPTIONS:
            if getattr(self, name) is not None and name not in head.options:
                takers = [kind for kind, each in HEADS.items() if name in each.options]
                takers_in_words = f"; it is for {', '.join(takers)}" if takers else ""
                raise InputError(f"task {self.name!r}: a task of kind {self.kind!r} has no {name}{takers_in_words}")
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise unknown_name_error(f"pooling for task {self.name!r}:", self.pooling, POOLINGS)
        if self.pair_encoding is not None and self.pair_encoding not in PAIR_ENCODINGS:
            raise unknown_name_error(f"pair_encoding for task {self.name!r}:", self.pair_encoding, PAIR_ENCODINGS)
        if self.pair_encoding is not None and self.num_texts != 2:
            raise InputError(f"task {self.name!r}: pair_encoding is for pairs, and there is one text; leave it out")

    @property
    def reads_apart(self) -> bool:
        """Whether `pair_encoding` sends the texts of a pair through the encoder apart."""
        return self.pair_encoding == "separate"


class Head(nn.Module, ABC):
    """The part of the model that only one task reaches: pooling, dropout, layers of its own, the loss.

    Args:
        spec: of the task.
        encoder_width: of the encoder's vectors.
        pooling: the task's or the model's, "mean", "cls" or "max"; for a head that has one vector per row.
        dropout: the model's `head_dropout`.
        base: for the next class in the order of bases, where a head is a module of torch too.

    Attributes:
        label_dtype: the dtype in which labels reach `loss`.
        options: those of `OPTIONS` that a task of this kind may have.
        default_loss: the `loss` that a task has without the option; "" of a kind that does not have it.
        takes_words: whether a row is a list of words; `pipeline_inputs.Words` holds one.
        takes_teacher: whether `teach` and `mix` are right for this very class. It is read from the class itself: a
            subclass may have a loss of its own, and says so anew.
    """

    label_dtype: ClassVar[torch.dtype] = torch.long
    options: ClassVar[tuple[str, ...]] = ("pooling",)
    default_loss: ClassVar[str] = ""
    takes_words: ClassVar[bool] = False
    takes_teacher: ClassVar[bool] = False

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
        """Token ids of texts or pairs: the one encoding of training, pipeline and command line.

        A row may have columns beside the tokenizer's. "sequence_lengths" says that its tokens are those of several
        sequences, which go through the encoder apart. "word_numbers" has, at the first token of each word, the word's
        number from 1, and 0 elsewhere; "labels" of such rows are those of their tokens.
        """
        return (encode_apart if spec.reads_apart else encode)(rows, tokenizer, max_length)

    @classmethod
    def read(cls, spec: HeadSpec, rows: Sequence[Texts], tokenizer: PreTrainedTokenizerBase) -> Sequence[Texts]:
        """The pipeline's rows as `encode` and `answer_rows` get them: words as one text, where it takes none."""
        return rows if cls.takes_words else [(" ".join(row),) if is_words(row) else row for row in rows]

    @classmethod
    def encoding_key(cls, spec: HeadSpec) -> Any:
        """The same for tasks whose rows are encoded alike: they share a pass through the encoder in the pipeline."""
        return cls.encode.__func__, spec.reads_apart  # type: ignore[attr-defined]

    @abstractmethod
    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The logits. *Shapes:* (sequences, tokens, width), (sequences, tokens) -> (rows, ...)

        A row is one sequence, unless `encode` gives it "sequence_lengths"; sequences of a row stand together.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The loss, summed in fp32, and the number of units that it is summed over; their ratio is the task's loss.

        Args:
            logits: what `forward` gave, on any device.
            labels: in `label_dtype`. *Shape:* (rows, ...)
        """

    def teach(self, logits: Tensor) -> Tensor:
        """What a student is taught of each row, from the logits of its teacher: the predictions, unless overridden.

        *Shape:* (rows, ...) -> (rows,) or (rows, numbers)
        """
        return self.decode(logits)

    def mix(self, labels: Tensor, taught: Tensor, share: float) -> Tensor:
        """Labels for `loss` between the rows' own and what a teacher says; numbers in between, unless overridden.

        Args:
            labels: the rows' own. *Shape:* (rows,)
            taught: what `teach` gave for these rows. *Shape:* (rows,) or (rows, numbers)
            share: of the teacher, from 0 to 1.
        """
        return share * taught + (1 - share) * labels

    def num_units(self, labels: Tensor) -> int | Tensor:
        """The units in `labels`, as `loss` counts them, known before any forward: rows unless overridden."""
        return len(labels)

    def prepare(self, labels: Any) -> None:
        """Take what the loss wants to know of all training labels; the trainer calls it once, before a training.

        Args:
            labels: of the training rows, as the data set has them.
        """

    def keep(self, logits: Tensor, labels: Tensor | None, inputs: Mapping[str, Tensor]) -> Kept:
        """What evaluation keeps of a batch until all rows are through: the logits, or less where these are many.

        Args:
            logits: of the batch. *Shape:* (rows, ...)
            labels: of the batch, where there are any.
            inputs: the rest of the batch.

        Returns:
            One tensor or several. *Shape:* (rows, ...) each; a second dimension is padded with -100.
        """
        return logits

    def kept_predictions(self, kept: Any) -> Tensor:
        """A prediction per row, from what was kept, as `decode` gives them. *Shape:* (rows, ...)"""
        return self.decode(kept)

    def kept_answers(self, kept: Any) -> Tensor:
        """What the kind writes of each row: the predictions, unless overridden. *Shape:* (rows, ...)"""
        return self.kept_predictions(kept)

    def kept_scores(self, kept: Any) -> Tensor | None:
        """What metrics of scores are computed from, such as probabilities. *Shape:* (rows, ...)"""
        return None

    def kept_loss(self, kept: Any, labels: Tensor) -> Tensor:
        """The mean loss over the units of all rows, from what was kept. *Shape:* ()"""
        return mean_of(*self.loss(kept, labels))

    @property
    def fitted(self) -> str:
        """What `fit` takes from the validation rows, in a word for messages; "" for nothing."""
        return ""

    def fit(self, kept: Any, labels: Tensor) -> None:
        """Take what no gradient teaches from the validation rows, after each evaluation, before scores are computed."""

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

    def answer_rows(
        self, logits: Tensor, inputs: Mapping[str, Tensor], rows: Sequence[Texts], top_k: TopK = BEST
    ) -> list[Any]:
        """As `answer`, for a kind that wants more than logits and mask.

        Args:
            logits: as in `answer`.
            inputs: the batch that the encoder read, with the columns that `encode` adds.
            rows: those of the batch, as `read` gave them.
            top_k: as in `answer`.
        """
        return self.answer(logits, inputs["attention_mask"], top_k)


def mean_of(total: Tensor, units: int | Tensor) -> Tensor:
    """A summed loss over its units; 0 where there are none, as of tokens of which none has a label."""
    return total / (units.clamp(min=1) if isinstance(units, Tensor) else max(units, 1))


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
