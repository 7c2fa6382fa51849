"""The head of a task whose rows are two texts and how alike they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .encoding import Encoded, Texts, encode_apart
from .errors import InputError
from .head_value import ValueHead
from .heads import HeadSpec, register_head
from .own_rate import at_own_rate
from .pooling import pool, vectors_of_rows

LOG_ODDS_OF_ENDS = 4.0  # at cosine 0 and 1, of a fresh head with the loss "bce": 2 % and 98 % of the range


@register_head("similarity")
class SimilarityHead(ValueHead):
    """The cosine of the two texts' vectors, mapped into the label's range.

    The map is affine. Cosine 0 and 1 begin as the ends of the range; `weight` and `bias` change slope and offset, at
    `own_rate.RATE` times the learning rate. There is no dropout, so that the encoder is tuned for the very vectors that
    `save_encoder` leaves to others.
    """

    options = ("pooling", "loss")
    takes_teacher = True

    def __init__(self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0) -> None:
        super().__init__(spec, encoder_width, pooling, dropout)
        self.weight, self.bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there are two texts, and for a range or a loss that cannot be used."""
        super().check(spec)
        if spec.num_texts != 2:
            raise InputError(f"task {spec.name!r}: similarity is that of two texts; wanted two text_columns")

    @classmethod
    def encode(
        cls, spec: HeadSpec, rows: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Encoded:
        """Each text of a pair as a sequence of its own."""
        return encode_apart(rows, tokenizer, max_length)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The output of each row. *Shapes:* (2 rows, tokens, width), (2 rows, tokens) -> (rows, 1)"""
        one, other = vectors_of_rows(pool(hidden, mask, self.pooling).float(), 2).unbind(dim=1)
        cosine = F.cosine_similarity(one, other, dim=-1)
        fraction = cosine * (1 + at_own_rate(self.weight)) + at_own_rate(self.bias)
        return ((fraction - 0.5) * (2 * LOG_ODDS_OF_ENDS if self.is_log_odds else 5)).unsqueeze(-1)
