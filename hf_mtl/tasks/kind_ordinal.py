"""Ordered classes: every row has one of the classes that the task declares from the lowest to the highest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.head_ordinal import OrdinalHead
from .kind_classification import Classification
from .kinds import register_kind
from .metric_names import register_metric


@register_metric("quadratic_kappa", kinds=["ordinal"])
def quadratic_kappa(predictions: NDArray[Any], references: NDArray[Any]) -> float:
    """Cohen's kappa in which a disagreement counts as the square of its distance (Cohen 1968); 0.0 where undefined.

    It is undefined where all predictions and all labels are one and the same class.
    """
    from sklearn.metrics import cohen_kappa_score  # late: takes a second to import

    found = np.union1d(predictions, references).astype(np.int64)
    if len(found) < 2:
        return 0.0
    # All classes up to the highest: of those that occur alone, neighbours would be one step apart.
    return float(cohen_kappa_score(references, predictions, labels=np.arange(found[-1] + 1), weights="quadratic"))


@register_kind("ordinal")
class Ordinal(Classification):
    """Labels are class indices, written as names or indices, as in classification; their order counts.

        stars:
          kind: ordinal
          files: {train: rows.csv, validation: rows.csv}
          text_columns: text
          label_column: stars
          labels: [bad, fair, good]          # from the lowest to the highest

    A row of the table: `text,stars` / `Not a minute too long.,good`. An answer: `{"label": "good", "score": 0.62}`.
    """

    head = OrdinalHead
    metrics = (quadratic_kappa.__name__,)
    auto = ()
    why_not_auto = "the names from the lowest to the highest, an order that the rows do not tell"
