"""Intervals and exact tests behind every "better". Plain numbers in, plain numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from counterpoint.errors import UsageError

LEVEL = 0.95
Statistic = Callable[[Sequence[Any]], float]
_AT_ONCE = 2_000_000  # documents drawn together


@dataclass(frozen=True, slots=True)
class OfMean:
    """A metric that is a monotone function of a weighted mean: `function(sum_d a_d / sum_d b_d)`, where a document's
    value is (a, b), or a alone with b = 1.

    Args:
        function: of arrays, element by element.
    """

    function: Callable[[np.ndarray], np.ndarray]

    def __call__(self, values: Sequence[Any]) -> float:
        table = self.table(values)
        return float(self.function(table[:, 0].sum() / table[:, 1].sum()))

    def table(self, values: Sequence[Any]) -> np.ndarray:
        """(D, 2) of a and b."""
        found = np.asarray(values, dtype=float)
        return found if found.ndim == 2 else np.stack([found, np.ones_like(found)], -1)

    def of_rows(self, table: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Of resamples: (D, 2), (N, D) of indices -> (N,)."""
        return self.function(table[at, 0].sum(-1) / table[at, 1].sum(-1))


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the ends of its 95 percent interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One arm less another on the same documents: the interval of the difference and a two-sided p.

    `test` names where p comes from: "McNemar, exact" for right and wrong, else "paired permutation".
    """

    value: float
    low: float
    high: float
    p: float
    test: str


def interval(
    values: Sequence[Any], *, seed: int, statistic: Statistic | None = None, resamples: int = 1000
) -> Interval:
    """The statistic (None: the mean) of one value a document, with a percentile bootstrap over documents.

    Raises:
        UsageError: there is no document.
    """
    if len(values) == 0:
        raise UsageError("there is no document to measure; use a task with at least one")
    if statistic is None:
        column = np.asarray(values, dtype=float)
        return Interval(float(column.mean()), *_bootstrap((column,), _mean, seed, resamples))
    if isinstance(statistic, OfMean):
        table = statistic.table(values)
        drawn = _resampled(lambda at: statistic.of_rows(table, at), len(table), seed, resamples)
        return Interval(statistic(values), *_ends(drawn))
    return Interval(
        float(statistic(values)),
        *_bootstrap_rows(lambda at: statistic([values[i] for i in at]), len(values), seed, resamples),
    )


def difference(
    ours: Sequence[Any], theirs: Sequence[Any], *, seed: int, statistic: Statistic | None = None, resamples: int = 1000
) -> Difference:
    """`ours` less `theirs`, document by document (None as statistic: of the means).

    Raises:
        UsageError: the arms have different documents.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise UsageError(f"the arms have {len(ours)} and {len(theirs)} documents; compare the same ones")
    if isinstance(statistic, OfMean):
        return _difference_of_means(statistic, ours, theirs, seed, resamples)
    if statistic is not None:

        def gap(at: np.ndarray) -> float:
            return statistic([ours[i] for i in at]) - statistic([theirs[i] for i in at])

        low, high = _bootstrap_rows(gap, len(ours), seed, resamples)
        return Difference(
            gap(np.arange(len(ours))),
            low,
            high,
            _p_of_swaps(ours, theirs, statistic, seed, resamples),
            "paired permutation",
        )
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    low, high = _bootstrap((a - b,), _mean, seed, resamples)
    if set(np.unique([a, b])) <= {0.0, 1.0}:
        won, lost = int((a > b).sum()), int((a < b).sum())
        p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
        return Difference(float((a - b).mean()), low, high, p, "McNemar, exact")
    if np.array_equal(a, b):
        return Difference(0.0, 0.0, 0.0, 1.0, "paired permutation")
    test = stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=resamples, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Difference(float((a - b).mean()), low, high, float(test.pvalue), "paired permutation")


def _difference_of_means(
    statistic: OfMean, ours: Sequence[Any], theirs: Sequence[Any], seed: int, resamples: int
) -> Difference:
    a, b = statistic.table(ours), statistic.table(theirs)
    with np.errstate(invalid="ignore"):
        drawn = _resampled(lambda at: statistic.of_rows(a, at) - statistic.of_rows(b, at), len(a), seed, resamples)
        value = statistic(ours) - statistic(theirs)
        rng, as_large, step = np.random.default_rng(seed), 1, max(1, _AT_ONCE // len(a))
        for at in range(0, resamples, step):
            swap = (rng.random((min(step, resamples - at), len(a))) < 0.5)[..., None]
            one, other = np.where(swap, b, a).sum(1), np.where(swap, a, b).sum(1)
            gaps = statistic.function(one[:, 0] / one[:, 1]) - statistic.function(other[:, 0] / other[:, 1])
            as_large += int((np.abs(gaps) >= abs(value) - 1e-12).sum())
    return Difference(value, *_ends(drawn), as_large / (resamples + 1), "paired permutation")


def _resampled(of_rows: Callable[[np.ndarray], np.ndarray], count: int, seed: int, resamples: int) -> np.ndarray:
    rng, step = np.random.default_rng(seed), max(1, _AT_ONCE // count)
    sizes = [min(step, resamples - at) for at in range(0, resamples, step)]
    return np.concatenate([of_rows(rng.integers(0, count, (size, count))) for size in sizes])


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    """Order statistics, so that infinite values stay what they are."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(low), float(high)


def _mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return values.mean(axis=axis)


def _bootstrap(data: tuple[np.ndarray, ...], statistic: Callable, seed: int, resamples: int) -> tuple[float, float]:
    values = data[0]
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        value = float(values.mean())
        return value, value
    ends = stats.bootstrap(
        data, statistic, confidence_level=LEVEL, n_resamples=resamples, method="percentile", vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(ends.low), float(ends.high)


def _bootstrap_rows(
    of_rows: Callable[[np.ndarray], float], count: int, seed: int, resamples: int
) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    drawn = [of_rows(rng.integers(0, count, count)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_of_swaps(ours: Sequence[Any], theirs: Sequence[Any], statistic: Statistic, seed: int, resamples: int) -> float:
    """Share of random swaps between the arms whose difference is at least as large as the one found."""
    rng = np.random.default_rng(seed)
    found = abs(statistic(ours) - statistic(theirs))
    as_large = 1
    for _ in range(resamples):
        swap = rng.random(len(ours)) < 0.5
        a = [y if s else x for x, y, s in zip(ours, theirs, swap)]
        b = [x if s else y for x, y, s in zip(ours, theirs, swap)]
        as_large += abs(statistic(a) - statistic(b)) >= found - 1e-12
    return as_large / (resamples + 1)
