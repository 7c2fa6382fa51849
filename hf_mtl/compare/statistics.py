"""What paired differences over seeds say: a 95 % t interval, a verdict, and how many seeds it would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
LEAST_SEEDS = 3  # below, there is no interval
MOST_SEEDS = 1000
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"

Floats = NDArray[np.float64]


def t_interval(differences: ArrayLike) -> tuple[Floats, Floats]:
    """Lower and upper end of Student's interval around means, at the level `CONFIDENCE`. *Shape of each:* (...)

    Args:
        differences: independent values, two or more along the last axis. *Shape:* (..., n)
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.shape[-1]
    half = _t(n) * values.std(axis=-1, ddof=1) / math.sqrt(n)
    mean = values.mean(axis=-1)
    return mean - half, mean + half


def _t(n: int) -> float:
    """The quantile of Student's distribution that makes an interval of `n` values."""
    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What paired differences say.

    Attributes:
        mean: of the differences.
        deviation: their standard deviation; None of a single one.
        low: lower end of the interval; None below `LEAST_SEEDS` differences, and where one is not finite.
        high: upper end likewise.
        seeds: number of differences.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    seeds: int

    @property
    def verdict(self) -> str:
        """BETTER or WORSE where the interval lies on one side of 0, else UNDECIDED."""
        if self.low is None or self.high is None or not (self.low > 0 or self.high < 0):
            return UNDECIDED
        return BETTER if self.low > 0 else WORSE

    @property
    def seeds_needed(self) -> int | None:
        """The least number of seeds whose interval would not hold 0, were mean and deviation to stay as they are.

        None where that is more than `MOST_SEEDS`, or where there is no deviation to go by.
        """
        if self.deviation is None or not math.isfinite(self.mean):
            return None
        numbers = range(max(LEAST_SEEDS, self.seeds), MOST_SEEDS + 1)
        enough = (n for n in numbers if _t(n) * self.deviation / math.sqrt(n) < abs(self.mean))
        return next(enough, None)


def paired_difference(values: Sequence[float], against: Sequence[float]) -> Difference:
    """What the differences of values of the same seeds say. *Shape of each:* (n,), n >= 1."""
    differences = np.asarray(values, dtype=np.float64) - np.asarray(against, dtype=np.float64)
    n = len(differences)
    known = n >= LEAST_SEEDS and bool(np.isfinite(differences).all())
    low, high = map(float, t_interval(differences)) if known else (None, None)
    return Difference(
        mean=float(differences.mean()), deviation=standard_deviation(differences), low=low, high=high, seeds=n
    )


def standard_deviation(values: ArrayLike) -> float | None:
    """That of a sample; None of a single value."""
    sample = np.asarray(values, dtype=np.float64)
    return float(sample.std(ddof=1)) if len(sample) > 1 else None
