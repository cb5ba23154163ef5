"""Whether anything still moves. Knows requests only by their ids and their counts of tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

STALL_STEPS = 100
STALL_S = 30.0


class Moving(Protocol):
    """What the watchdog reads of a request."""

    request_id: str
    num_computed_tokens: int


class Watchdog:
    """Tells a stall: no request got further than ever before for `steps` steps and for `seconds`.

    Getting further means a token more, or prompt tokens computed for the first time; computing again what was forgotten
    or preempted does not count, so that a circle of preemptions is a stall too.
    """

    def __init__(
        self, *, steps: int = STALL_STEPS, seconds: float = STALL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps, self._seconds, self._clock = steps, seconds, clock
        self._furthest: dict[str, int] = {}
        self._still = 0
        self._since = clock()

    def stalled(self, requests: Iterable[Moving]) -> bool:
        """Look at every live request after a step; whether this is a stall."""
        furthest, moved = {}, False
        for request in requests:
            name, position = request.request_id, request.num_computed_tokens
            before = self._furthest.get(name, -1)
            moved = moved or position > before
            furthest[name] = max(position, before)
        if moved or len(furthest) != len(self._furthest):
            self.reset()
        self._furthest = furthest
        self._still += 1
        return self.late(self._still, self._since)

    def late(self, steps: int, since: float) -> bool:
        """Whether waiting for so many steps since then is too long."""
        return steps >= self._steps and self._clock() - since >= self._seconds

    def reset(self) -> None:
        """Start counting anew."""
        self._still, self._since = 0, self._clock()
