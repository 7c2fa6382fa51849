"""The metrics of token classification. Both are fractions of which more is better, and 0.0 of nothing.

Predictions and references are tags of tokens, (rows, tokens); tokens whose reference is -100 do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.encoding import NO_LABEL
from ..model.tag_scheme import TagScheme
from .metric_names import register_metric

Array = NDArray[Any]


@register_metric("entity_f1", kinds=["token_classification"], of_names=True)
def entity_f1(predictions: Array, references: Array, *, names: Sequence[str]) -> float:
    """F1 over the entities of all rows: one is right if label, first and last word are; as seqeval's strict mode."""
    scheme = TagScheme(names)
    right = total = 0
    for tags, wanted in zip(predictions, references, strict=True):
        counts = wanted != NO_LABEL
        found, there = (set(scheme.spans(each[counts].tolist())) for each in (tags, wanted))
        right += len(found & there)
        total += len(found) + len(there)
    return 2 * right / total if total else 0.0


@register_metric("token_accuracy", kinds=["token_classification"])
def token_accuracy(predictions: Array, references: Array) -> float:
    """Share of the words whose predicted tag is right."""
    counts = references != NO_LABEL
    return float(np.mean((predictions == references)[counts])) if counts.any() else 0.0
