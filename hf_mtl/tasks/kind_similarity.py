"""Similarity: every row is two texts, and a value in a range that says how alike they are."""

from __future__ import annotations

from ..model.head_similarity import SimilarityHead
from .kind_regression import Regression
from .kinds import register_kind
from .metrics import pearson, spearman


@register_kind("similarity")
class Similarity(Regression):
    """Labels are values, as of regression; the two texts go through the encoder apart, and their cosine is the score.

        stsb:
          kind: similarity
          text_columns: [sentence1, sentence2]
          label_column: score
          label_range: [0, 5]
          files: {train: train.jsonl, validation: dev.jsonl}

    A row is `{"sentence1": "A man is cooking.", "sentence2": "A man bakes.", "score": 3.2}`, an answer
    `{"value": 3.05}`. `save_encoder` leaves the tuned sentence-transformers model.
    """

    head = SimilarityHead
    metrics = (pearson.__name__, spearman.__name__)
    pipeline_tag = "sentence-similarity"
