"""How far windows of a text are from windows of good ones. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from counterpoint.errors import UsageError

if TYPE_CHECKING:
    from counterpoint.engine.watching import Numbers

Array: TypeAlias = NDArray[np.float64]
NEAREST = 3  # good windows that a distance is the mean of
SCALE_FLOOR = 0.05  # of a number's spread among good windows: nats below it are no difference
SEED = 0  # of an isolation forest
LEAST_GOOD = 5  # texts
LEAST = 0.02  # nats, added before a logarithm: below it everything is as sure
NAMES = ("entropy", "cond_logprob", "guided_logprob", "divergence")  # a step's numbers, in order
USUAL = NAMES[:3]


class Judge(Protocol):
    """What windows are judged by."""

    def distances(self, windows: Array) -> Array:
        """(N, F) -> (N,), larger the less they are like good ones."""


class Nearest:
    """The mean distance to the nearest good windows, each number in units of its spread among them.

    Args:
        good: (M, F).
    """

    def __init__(self, good: Array) -> None:
        self._centre = good.mean(0)
        self._scale = np.maximum(good.std(0), SCALE_FLOOR)
        self._good = (good - self._centre) / self._scale
        self._squares = (self._good**2).sum(1)
        self._count = min(NEAREST, len(good))

    def distances(self, windows: Array) -> Array:
        scaled = (windows - self._centre) / self._scale
        squares = (scaled**2).sum(1)[:, None] + self._squares - 2 * scaled @ self._good.T
        nearest = np.partition(np.maximum(squares, 0.0), self._count - 1, axis=1)[:, : self._count]
        return np.sqrt(nearest).mean(1)


class Forest:
    """An isolation forest of scikit-learn: how few splits set a window apart (Liu, Ting and Zhou 2008).

    Args:
        good: (M, F).
    """

    def __init__(self, good: Array) -> None:
        from sklearn.ensemble import IsolationForest

        self._forest = IsolationForest(n_estimators=100, random_state=SEED).fit(good)

    def distances(self, windows: Array) -> Array:
        return -self._forest.score_samples(windows)


JUDGES: dict[str, type[Nearest] | type[Forest]] = {"nearest": Nearest, "forest": Forest}


def check_lengths(lengths: Sequence[int], window: int) -> None:
    """Refuse good texts that are too few, or too short.

    Args:
        lengths: tokens of each.

    Raises:
        UsageError: with the number of the first one.
    """
    if len(lengths) < LEAST_GOOD:
        raise UsageError(
            f"{len(lengths)} good texts are given; a watch needs {LEAST_GOOD}, better 8 or more", param="good"
        )
    for number, length in enumerate(lengths):
        if length < window:
            raise UsageError(
                f"good text {number} has {length} tokens and a window {window}; leave it out, or use a shorter window",
                param="good",
            )


def bound(largest: Sequence[float], false_alarms: float) -> float:
    """A distance that the next good text stays below with probability 1 - `false_alarms`.

    The one-sided prediction bound of a normal distribution fitted to the logarithms of the largest distances of some
    good texts, each measured from the others: mean + t * s * sqrt(1 + 1/n), t of Student's distribution.
    """
    logs = [math.log(max(value, 1e-9)) for value in largest]
    count, mean = len(logs), sum(logs) / len(logs)
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / (count - 1))
    return math.exp(mean + student(1 - false_alarms, count - 1) * spread * math.sqrt(1 + 1 / count))


def student(probability: float, freedom: int) -> float:
    """A quantile of Student's distribution, by the expansion of Cornish and Fisher; to 1 % from 5 degrees on."""
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def row_of(numbers: Numbers) -> tuple[float, ...]:
    """A step as a row of an array: the states where they were heard, else the four numbers."""
    if numbers.hidden is not None:
        return tuple(numbers.hidden.float().tolist())
    return (numbers.entropy, numbers.cond_logprob, numbers.guided_logprob, numbers.divergence)


def windows(numbers: Array, length: int, names: Sequence[str]) -> Array:
    """Each run of `length` steps as one row, from its means of the numbers that are named; without names, the means of all
    columns. (T, C) -> (N, F); no rows where there are fewer steps.

    A text that repeats itself is too sure, and a jumble not sure enough. As it is, a mean tells apart what is far from
    sure, and its logarithm what is near: both are taken of entropy and of the token's surprise in the prompt's branch.
    """
    if not names:
        return _runs(numbers, length)
    if len(numbers) < length:
        return np.empty((0, sum(len(_MEASURES[name]) for name in names)))
    means = _runs(numbers, length)
    columns = [measure(np.abs(means[:, NAMES.index(name)])) for name in names for measure in _MEASURES[name]]
    return np.stack(columns, axis=1)


def _runs(numbers: Array, length: int) -> Array:
    """The mean of each run. (T, C) -> (N, C)."""
    if len(numbers) < length:
        return np.empty((0, numbers.shape[1]))
    sums = np.cumsum(np.concatenate([np.zeros((1, numbers.shape[1])), numbers]), axis=0)
    return (sums[length:] - sums[:-length]) / length


def _plain(values: Array) -> Array:
    return values


def _log(values: Array) -> Array:
    return np.log(values + LEAST)


_MEASURES = {
    "entropy": (_plain, _log),
    "cond_logprob": (_plain, _log),
    "guided_logprob": (_plain,),
    "divergence": (_log,),
}
