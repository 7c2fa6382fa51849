"""A metric of the registry as the `evaluate.Metric` that it is computed by."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from .metric_names import METRICS


class TaskMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Collects predictions and references as `evaluate` does, in memory, and scores them with the metric's function.

    Args:
        name: a key of `METRICS`.
        example: rows of the dtype and shape that it collects.
    """

    def __init__(self, name: str, example: NDArray[Any]) -> None:
        self._metric, self._example = METRICS[name], example
        super().__init__(keep_in_memory=True)
        self.info.metric_name = name

    def _info(self) -> evaluate.MetricInfo:
        number = "float64" if self._example.dtype.kind == "f" else "int64"
        feature: Any = datasets.Value(number)
        for _ in self._example.shape[1:]:
            feature = datasets.List(feature)
        return evaluate.MetricInfo(
            description=(self._metric.score.__doc__ or "").strip(),
            citation="",
            inputs_description="predictions and references of the same rows",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return {self.name: float(self._metric.score(np.asarray(predictions), np.asarray(references), **options))}
