"""The head of a task whose rows have a tag for each word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .encoding import NO_LABEL, WORD_NUMBERS, Encoded
from .errors import InputError
from .head_linear import LinearHead
from .heads import HeadSpec, Kept, register_head
from .pipeline_inputs import BEST, Texts, TopK
from .tag_scheme import OUTSIDE, Span, TagScheme
from .words import TextWords, encode_words, words_of_texts


@register_head("token_classification")
class TokenClassificationHead(LinearHead):
    """A logit per tag at every token, the cross-entropy over words, the likeliest tag of each word.

    A word's first token stands for it. Of a batch, evaluation keeps the tags, the words' numbers and a loss per row.
    """

    options = ()
    takes_words = True

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there are two or more different tags without blanks, and one text."""
        labels, where = spec.labels, f"task {spec.name!r}"
        are_names = isinstance(labels, tuple | list) and all(isinstance(label, str) for label in labels)
        if labels is None or not are_names or len(labels) < 2 or len(set(labels)) != len(labels):
            raise InputError(f"{where}: labels is {labels!r}, wanted two or more different names of tags")
        for label in labels:
            if label.split() != [label]:
                raise InputError(
                    f"{where}: labels has the tag {label!r}, wanted one without blanks: the tags of a row stand in one "
                    "line, with blanks between"
                )
        if spec.label_range is not None:
            raise InputError(f"{where}: label_range belongs to regression; token_classification declares labels")
        if spec.num_texts != 1:
            raise InputError(f"{where}: text_columns names {spec.num_texts} columns, wanted one, of lists of words")

    @classmethod
    def width(cls, spec: HeadSpec) -> int:
        """The number of tags."""
        return len(spec.labels or ())

    @classmethod
    def encode(
        cls, spec: HeadSpec, rows: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Encoded:
        """Token ids, and the words' numbers at their first tokens; see `encode_words`."""
        try:
            return encode_words(rows, tokenizer, max_length)
        except InputError as error:
            raise InputError(f"task {spec.name!r}: {error}") from error

    @classmethod
    def read(cls, spec: HeadSpec, rows: Sequence[Texts], tokenizer: PreTrainedTokenizerBase) -> Sequence[Texts]:
        """The words of every row; those of a text know where they are in it."""
        try:
            return words_of_texts(rows, tokenizer)
        except InputError as error:
            raise InputError(f"task {spec.name!r}: {error}") from error

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # Head's, not Linear's
        """The logits. *Shapes:* (rows, tokens, width), (rows, tokens) -> (rows, tokens, tags)"""
        return nn.Linear.forward(self, self.dropout(hidden))

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The cross-entropy, and the tokens that have a label. *Shapes:* (rows, tokens, tags), (rows, tokens)"""
        return self._losses(logits, labels).sum(), self.num_units(labels)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each token, 0 without a label. *Shapes:* (rows, tokens, tags) -> (rows, tokens)"""
        flat, wanted = logits.float().flatten(0, 1), labels.to(self.label_dtype).flatten()
        return F.cross_entropy(flat, wanted, ignore_index=NO_LABEL, reduction="none").view(labels.shape)

    def num_units(self, labels: Tensor) -> int | Tensor:
        """The tokens that have a label."""
        return (labels != NO_LABEL).sum()

    def keep(self, logits: Tensor, labels: Tensor | None, inputs: Mapping[str, Tensor]) -> Kept:
        """The tags, -100 where no word begins; the words' numbers; and a loss for each row.

        *Shapes:* (rows, tokens), (rows, tokens), (rows,); int32, int32, fp32
        """
        numbers = inputs[WORD_NUMBERS]
        tags = torch.where(numbers > 0, logits.argmax(dim=-1), NO_LABEL)
        losses = logits.new_zeros(len(logits), dtype=torch.float32)
        if labels is not None:
            losses = self._losses(logits, labels).sum(dim=-1)
        return tags.int(), numbers.int(), losses  # int32: processes cannot gather int16

    def kept_predictions(self, kept: Any) -> Tensor:
        """The tags of the tokens, as their labels are. *Shape:* (rows, tokens)"""
        tags: Tensor = kept[0]
        return tags

    def kept_answers(self, kept: Any) -> Tensor:
        """The tags of the words, in order, -100 for a word without a token. *Shape:* (rows, words)"""
        tags, numbers, _ = kept
        words = tags.new_full((len(tags), 1 + max(1, int(numbers.max()))), NO_LABEL)
        words.scatter_(1, numbers.clamp(min=0).long(), tags)  # what is no word's goes to place 0
        return words[:, 1:]

    def kept_loss(self, kept: Any, labels: Tensor) -> Tensor:
        """The mean loss over the tokens that have a label. *Shape:* ()"""
        total: Tensor = kept[2].double().sum()
        return total / self.num_units(labels).clamp(min=1)  # type: ignore[union-attr]

    def decode(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The index of each token's likeliest tag. *Shape:* (rows, tokens, tags) -> (rows, tokens)"""
        return logits.argmax(dim=-1)

    def answer(self, logits: Tensor, mask: Tensor | None = None, top_k: TopK = BEST) -> list[Any]:
        """The tag of every token; `answer_rows` knows which of them are words."""
        names = self.spec.labels or ()
        return [{"tags": [names[tag] for tag in tags]} for tags in self.decode(logits).tolist()]

    def answer_rows(
        self, logits: Tensor, inputs: Mapping[str, Tensor], rows: Sequence[Texts], top_k: TopK = BEST
    ) -> list[Any]:
        """Of a list of words their tags, None for a word without a token; of a text its entities. All have one form.

        See `Head.answer_rows`; `top_k` has no effect.
        """
        scheme = TagScheme(self.spec.labels or ())
        scores, tags = logits.softmax(dim=-1).max(dim=-1)
        scores, tags, numbers = scores.cpu(), tags.cpu(), inputs[WORD_NUMBERS].cpu()  # not row by row
        answers: list[dict[str, Any]] = []
        for row, words in enumerate(rows):
            at = numbers[row].nonzero().squeeze(-1)
            places = [number - 1 for number in numbers[row][at].tolist()]
            found, likely = tags[row][at].tolist(), scores[row][at].tolist()
            if isinstance(words, TextWords):
                answers.append({"entities": self._entities(scheme, words, places, found, likely)})
                continue
            of_words: list[str | None] = [None] * len(words)
            for place, tag in zip(places, found, strict=True):
                of_words[place] = (self.spec.labels or ())[tag]
            answers.append({"tags": of_words})
        return answers

    def _entities(
        self,
        scheme: TagScheme,
        words: TextWords,
        places: Sequence[int],
        tags: Sequence[int],
        scores: Sequence[float],
    ) -> list[dict[str, Any]]:
        """The entities of a text, each with the mean of its words' probabilities.

        Args:
            scheme: of the tags.
            words: of the text.
            places: of the words that have a tag.
            tags: of these.
            scores: the tags' probabilities.
        """
        entities = []
        for label, first, last in self._spans(scheme, tags):
            start, end = words.places[places[first]][0], words.places[places[last - 1]][1]
            score = sum(scores[first:last]) / (last - first)
            entities.append({"label": label, "start": start, "end": end, "text": words.text[start:end], "score": score})
        return entities

    def _spans(self, scheme: TagScheme, tags: Sequence[int]) -> list[Span]:
        """The entities that tags make; without a scheme, every word that is not outside is one."""
        if scheme.is_known:
            return scheme.spans(tags)
        names = self.spec.labels or ()
        return [Span(names[tag], place, place + 1) for place, tag in enumerate(tags) if names[tag] != OUTSIDE]
