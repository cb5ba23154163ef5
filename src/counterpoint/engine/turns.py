"""Which samples choose at a step: where several requests run, what takes long to choose does not hold up the others.

A choice that only needs a token is made for many samples at once and takes next to nothing. One that is looked at (penalties,
log-probabilities, processors, a trace, a constraint) takes a time of its own for each sample, and a client may ask for many
samples of that kind. Beside other requests such samples take turns: as many choose at a step as fit into its time, of each
request in turn, and the others at the next. A sample's tokens do not depend on when it chooses.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence as List

from counterpoint.engine.choose import choose, is_costly
from counterpoint.engine.request import Progress
from counterpoint.engine.sequence import Sequence

STEP_S = 0.03  # for the costly choices of one step
MOST_FORCED = 512  # tokens without a choice that all samples append at a step: they are read in one forward
FORCED_BESIDE = 64  # the same of those that choose together beside other requests
MOST_NOTED = 4096  # samples whose last turn is known


class Turns:
    """The turns of one engine."""

    def __init__(self) -> None:
        self._costs: dict[int, float] = {}  # seconds for one sample of a request, as last seen
        self._last: dict[tuple[int, int], int] = {}  # when a sample had its last turn
        self._served: dict[int, int] = {}  # when a request had its last turn
        self._num_turns = 0

    def choose(self, running: List[Sequence], active: List[Sequence]) -> list[Progress]:
        """Choose for the active samples that are ready, as often as what follows a token is known.

        Args:
            running: all samples that hold rows.
            active: those of them that go on at this step.
        """
        if len({sequence.request_id for sequence in running}) < 2:
            self._costs, self._last, self._served = {}, {}, {}
            progress = []
            while ready := _ready(active):
                progress += choose(ready, max(1, MOST_FORCED // len(ready)))
            return progress
        if len(self._last) > MOST_NOTED:
            self._forget_all_but(running)
        return self._beside_others(active)

    def _forget_all_but(self, running: List[Sequence]) -> None:
        left = {sequence.request_id for sequence in running}
        self._costs = {request_id: cost for request_id, cost in self._costs.items() if request_id in left}
        self._served = {request_id: turn for request_id, turn in self._served.items() if request_id in left}
        self._last = {key: turn for key, turn in self._last.items() if key[0] in left}

    def _beside_others(self, active: List[Sequence]) -> list[Progress]:
        progress: list[Progress] = []
        left_s = STEP_S
        while ready := _ready(active):
            costly: list[Sequence] = []
            quick: list[Sequence] = []
            for sequence in ready:
                (costly if is_costly(sequence) else quick).append(sequence)
            if quick:
                progress += choose(quick, 1)
            queue = self._in_turn(costly)
            while queue and left_s > 0:
                portion = self._portion(queue, left_s)
                queue = queue[len(portion) :]
                began = time.perf_counter()
                progress += choose(portion, max(1, FORCED_BESIDE // len(portion)))
                took = time.perf_counter() - began
                left_s -= took
                self._note(portion, took / len(portion))
            if left_s <= 0:
                break
        return progress

    def _in_turn(self, sequences: List[Sequence]) -> list[Sequence]:
        """The samples in the order of their turns: one of each request, then the next of each, whoever waits longest first."""
        seen: Counter[int] = Counter()
        places = {}
        for sequence in sorted(sequences, key=lambda one: self._last.get((one.request_id, one.index), 0)):
            places[sequence] = seen[sequence.request_id], self._served.get(sequence.request_id, 0)
            seen[sequence.request_id] += 1
        return sorted(places, key=places.__getitem__)

    def _portion(self, queue: List[Sequence], left_s: float) -> list[Sequence]:
        """How many of the next samples choose together: those that fit, and one of a request of which nothing is known."""
        portion: list[Sequence] = []
        for sequence in queue:
            cost = self._costs.get(sequence.request_id)
            if portion and (cost is None or cost > left_s):
                break
            portion.append(sequence)
            if cost is None:
                break
            left_s -= cost
        return portion

    def _note(self, portion: List[Sequence], cost: float) -> None:
        self._num_turns += 1
        for sequence in portion:
            self._last[sequence.request_id, sequence.index] = self._served[sequence.request_id] = self._num_turns
            # What took long once may do so again: the estimate falls slowly.
            self._costs[sequence.request_id] = max(cost, 0.8 * self._costs.get(sequence.request_id, 0.0))


def _ready(active: List[Sequence]) -> list[Sequence]:
    return [sequence for sequence in active if sequence.is_alive and sequence.is_ready]
