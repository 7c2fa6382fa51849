"""The head of label sets; it travels with a saved model, so it imports torch and hf_mtl.model only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_mtl.model.errors import InputError
from hf_mtl.model.heads import Head, HeadSpec
from hf_mtl.model.pipeline_inputs import BEST, TopK
from hf_mtl.model.pooling import pool


class LabelSetHead(Head):
    """A hidden layer, and a logit per label; a label is predicted where its probability is above one half."""

    label_dtype = torch.float32

    def __init__(self, spec: HeadSpec, encoder_width: int, pooling: str = "mean", dropout: float = 0.0) -> None:
        super().__init__(spec, encoder_width, pooling, dropout)
        assert spec.labels is not None
        self.hidden = nn.Linear(encoder_width, encoder_width)
        self.output = nn.Linear(encoder_width, len(spec.labels))

    @classmethod
    def check(cls, spec: HeadSpec) -> None:
        """Raise InputError unless there are labels, each once."""
        labels = spec.labels
        if not labels or len(set(labels)) < len(labels):
            raise InputError(f"task {spec.name!r}: labels is {labels!r}, wanted one or more different names")

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The logits. *Shapes:* (rows, tokens, width), (rows, tokens) -> (rows, labels)"""
        vectors = torch.tanh(self.hidden(pool(hidden, mask, self.pooling)))
        return self.output(self.dropout(vectors))

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
        """The binary cross-entropy, a mean over a row's labels, and the rows. *Shapes:* both (rows, labels)"""
        losses = F.binary_cross_entropy_with_logits(logits.float(), labels.to(self.label_dtype), reduction="none")
        return losses.mean(dim=-1).sum(), self.num_units(labels)

    def decode(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """1 for every label that a row has, else 0. *Shape:* (rows, labels) -> (rows, labels)"""
        return (logits > 0).long()

    def answer(self, logits: Tensor, mask: Tensor | None = None, top_k: TopK = BEST) -> list[Any]:
        """The labels of each row with their probabilities, the likeliest first; the `top_k` likeliest, or all."""
        names = self.spec.labels or ()
        answers = []
        for row in logits.sigmoid().tolist():
            scores = sorted(zip(names, row, strict=True), key=lambda pair: -pair[1])
            chosen = [pair for pair in scores if pair[1] > 0.5] if top_k == BEST else scores[:top_k]
            answers.append([{"label": label, "score": score} for label, score in chosen])
        return answers
