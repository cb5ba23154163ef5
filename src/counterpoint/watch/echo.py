"""Whether the last tokens of a text are an echo of earlier ones, by their numbers. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from counterpoint.watch.distance import LEAST, Array

FURTHEST = 3  # windows: so far back an echo is looked for
NEAREST_LAG = 2  # a token that comes again and again is found at twice its distance


class Echo:
    """How much nearer a window is to a run of steps before it than to a usual one: about 1, and far above it in a loop.

    Where a text repeats itself, the model is as sure and as unsure, step by step, as it was a period before. A window's
    steps are compared, number by number, with those `lag` steps before, for each lag up to three windows. The distance is
    the median of these differences over the least of them: texts that are sure of themselves all along, such as lists and
    code, have small differences at every lag. A median below all of the good texts' counts as the least of theirs, so that
    a text that is one loop from its beginning is told too.

    Args:
        good: the steps of good texts, (T, C) each; a difference is the mean over C.
        length: steps of a window, L.
    """

    def __init__(self, good: Sequence[Array], length: int) -> None:
        self._length = length
        usual = np.concatenate([self._apart(text)[1] for text in good])
        self._least = float(np.nanmin(usual)) if not np.isnan(usual).all() else 0.0

    @property
    def shortest(self) -> int:
        """Steps of a text whose last window can be told: so many that there are as many lags as a window has steps."""
        return 2 * self._length + NEAREST_LAG - 1

    def distances(self, steps: Array) -> Array:
        """Of each window; 1 where too little is before it. (T, C) -> (T - L + 1,)."""
        return self._told(*self._apart(steps))

    def last(self, steps: Array) -> float:
        """Of the last window alone."""
        steps = steps[-(FURTHEST + 1) * self._length :]
        return float(self._told(*self._apart(steps, len(steps) - self._length))[0])

    def _told(self, nearest: Array, usual: Array) -> Array:
        told = (np.maximum(usual, self._least) + LEAST) / (nearest + LEAST)
        return np.where(np.isnan(told), 1.0, told)

    def _apart(self, steps: Array, begin: int = 0) -> tuple[Array, Array]:
        """The least and the median difference of each window, from that number on, from runs before it; NaN where there are
        too few."""
        length, count = self._length, max(len(steps) - self._length + 1 - begin, 0)
        nearest, usual = np.full(count, np.nan), np.full(count, np.nan)
        first = max(self.shortest - length - begin, 0)
        if len(steps) < self.shortest:
            return nearest, usual
        lags = np.arange(NEAREST_LAG, min(FURTHEST * length, len(steps) - length) + 1)
        before = np.arange(begin, len(steps))[:, None] - lags  # (T - begin, lags)
        apart = np.abs(steps[begin:, None] - steps[np.maximum(before, 0)]).mean(-1)
        sums = np.cumsum(np.concatenate([np.zeros((1, len(lags))), apart]), axis=0)
        means = (sums[length:] - sums[:-length]) / length  # (windows, lags)
        is_there = before[:count] >= 0  # else the run would begin before the text
        means = np.sort(np.where(is_there, means, np.inf), axis=1)[first:]
        middle, windows = is_there.sum(1)[first:], np.arange(len(means))
        nearest[first:] = means[:, 0]
        usual[first:] = (means[windows, (middle - 1) // 2] + means[windows, middle // 2]) / 2
        return nearest, usual
