"""Ratios of ways that take turns (A B C A B C ...), so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Way = Callable[[], float]  # runs once, returns seconds


@dataclass(frozen=True, slots=True)
class Paired:
    """Seconds of each way, round by round."""

    seconds: dict[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Median seconds of one way."""
        return statistics.median(self.seconds[name])

    def best(self, name: str) -> float:
        """Least seconds of one way."""
        return min(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """Median over the rounds of one way's seconds by another's in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[base]))

    def spread(self, name: str, base: str) -> tuple[float, float]:
        """Least and largest of those ratios."""
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[base])]
        return min(ratios), max(ratios)


def run_paired(ways: Mapping[str, Way], *, rounds: int) -> Paired:
    """Run every way once a round, after one round that is not counted.

    Raises:
        ValueError: no rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; use 1 or more")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(rounds + 1):
        for name, way in ways.items():
            taken = way()
            if at:
                seconds[name].append(taken)
    return Paired({name: tuple(values) for name, values in seconds.items()})
