"""Intervals and tests on numbers whose answers are known."""

import numpy as np
import pytest

from counterpoint.errors import UsageError
from counterpoint.evaluate.intervals import difference, interval


def test_interval_of_a_mean_covers_it_and_shrinks():
    rng = np.random.default_rng(1)
    few, many = interval(rng.normal(5, 1, 50), seed=0), interval(rng.normal(5, 1, 5000), seed=0)
    assert few.low < 5 < few.high and many.low < 5 < many.high
    # The mean of n values of unit spread has a 95 percent interval of about 2 * 1.96 / sqrt(n).
    assert many.high - many.low == pytest.approx(2 * 1.96 / 5000**0.5, rel=0.1)
    assert few == interval(np.random.default_rng(1).normal(5, 1, 50), seed=0)


def test_interval_of_another_statistic():
    found = interval([1.0, 2.0, 3.0, 4.0], seed=0, statistic=max)
    assert (found.value, found.high) == (4.0, 4.0) and found.low < 4


def test_right_and_wrong_are_tested_exactly():
    # 8 documents won and none lost: two-sided p = 2 * 0.5 ** 8.
    gain = difference([1] * 8 + [0] * 4, [0] * 12, seed=0)
    assert gain.test == "McNemar, exact"
    assert gain.p == pytest.approx(2 * 0.5**8)
    assert gain.value == pytest.approx(8 / 12) and gain.low < gain.value < gain.high
    assert difference([1, 0, 1], [1, 0, 1], seed=0).p == 1.0


def test_numbers_are_tested_by_permutation():
    rng = np.random.default_rng(2)
    base = rng.normal(0, 1, 100)
    better, same = difference(base + 0.5, base, seed=0), difference(base + rng.normal(0, 1, 100), base, seed=0)
    assert better.p < 0.01 and better.value == pytest.approx(0.5)
    assert same.p > 0.05
    assert difference(base, base, seed=0) == difference(base, base, seed=1)


def test_other_statistics_are_tested_by_swapping_documents():
    gain = difference([1.0, 2.0, 3.0, 9.0] * 5, [0.0, 1.0, 1.0, 2.0] * 5, seed=0, statistic=np.median, resamples=200)
    assert gain.value == pytest.approx(1.5) and gain.p < 0.05


def test_bad_input():
    with pytest.raises(UsageError, match="no document"):
        interval([], seed=0)
    with pytest.raises(UsageError, match="compare the same ones"):
        difference([1.0], [1.0, 2.0], seed=0)
