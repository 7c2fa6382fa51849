"""The interval of a comparison is Student's, covers as it says, and tells how many seeds it would take."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hf_mtl.compare.statistics import MOST_SEEDS, Difference, paired_difference, t_interval

SIMULATED = 2000


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_intervals_cover_the_true_difference_in_19_of_20_comparisons(n, correlation):
    """Scores of two arms with a noise of the seed that both share, as runs of one seed have."""
    generator = np.random.default_rng([n, int(10 * correlation)])
    shared = generator.normal(size=(SIMULATED, n)) * correlation**0.5
    one, other = (0.85 + 0.01 * (shared + generator.normal(size=(SIMULATED, n))) for _ in range(2))
    low, high = t_interval(one + 0.004 - other)
    covered = ((low <= 0.004) & (high >= 0.004)).mean()
    assert 0.93 <= covered <= 0.97


FINITE = st.floats(-1, 1).map(lambda value: round(value, 6))


@given(pairs=st.lists(st.tuples(FINITE, FINITE), min_size=3, max_size=12))
def test_the_interval_is_that_of_scipys_paired_test(pairs):
    ours, theirs = map(list, zip(*pairs, strict=True))
    found = paired_difference(ours, theirs)
    if np.ptp(np.subtract(ours, theirs)) < 1e-9:
        assert found.low == pytest.approx(found.mean) and found.high == pytest.approx(found.mean)
        return
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.mean == pytest.approx(np.mean(np.subtract(ours, theirs)), abs=1e-12) and found.seeds == len(pairs)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "better"),
        (-0.3, -0.1, "worse"),
        (-0.1, 0.3, "undecided"),
        (0.0, 0.3, "undecided"),
        (-0.3, 0.0, "undecided"),
        (None, None, "undecided"),
    ],
)
def test_a_verdict_wants_0_outside_the_interval(low, high, verdict):
    assert Difference(mean=0.1, deviation=0.1, low=low, high=high, seeds=3).verdict == verdict


def test_below_three_seeds_there_is_no_interval():
    two = paired_difference([0.9, 0.91], [0.1, 0.11])
    assert (two.low, two.high, two.verdict, two.seeds) == (None, None, "undecided", 2)
    one = paired_difference([0.9], [0.1])
    assert (one.deviation, one.low, one.seeds_needed) == (None, None, None) and one.mean == pytest.approx(0.8)


@given(mean=st.floats(0.01, 2), deviation=st.floats(0.1, 3), seeds=st.integers(2, 20))
def test_the_seeds_needed_are_the_fewest_whose_interval_would_not_hold_0(mean, deviation, seeds):
    def half(n):
        return stats.t.ppf(0.975, n - 1) * deviation / n**0.5

    needed = Difference(mean=-mean, deviation=deviation, low=None, high=None, seeds=seeds).seeds_needed
    if needed is None:
        assert half(MOST_SEEDS) > mean * (1 - 1e-6)
    else:
        assert half(needed) < mean * (1 + 1e-6)
        assert needed == max(3, seeds) or half(needed - 1) > mean * (1 - 1e-6)


def test_no_number_of_seeds_tells_a_difference_of_nothing():
    assert Difference(mean=0.0, deviation=0.1, low=-0.1, high=0.1, seeds=5).seeds_needed is None
