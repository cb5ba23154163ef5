"""Requests that nobody waits for. They use rows that nobody else wants, and give them up to whoever comes.

While others are there, background samples take so many rows altogether; those beyond hold still, in the order of their
arrival, and the youngest are set aside where their rows are needed. Their tokens are the same either way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as SequenceOf

from counterpoint.engine.reader import Reader
from counterpoint.engine.sequence import Sequence

READ_BESIDE = 64  # prompt tokens of background samples read in one step while others write


class Background:
    """The background samples of one engine.

    Args:
        num_rows: most rows that they may use beside others, though one sample is always let through.
        can_set_aside: whether their rows can be taken from them; what is read again is read in other shapes, which
            changes the last bits in less than float32.
    """

    def __init__(self, num_rows: int, *, can_set_aside: bool) -> None:
        self._num_rows, self._can_set_aside = num_rows, can_set_aside
        self.waiting: deque[Sequence] = deque()

    def make_room(self, running: list[Sequence], num_rows: int, free: int) -> int:
        """Set samples aside, the youngest first, until so many rows are free, where that can be; returns how many are."""
        own = [sequence for sequence in running if sequence.is_background]
        if not self._can_set_aside or free + num_rows_of(own) < num_rows:
            return free
        while free < num_rows:
            sequence = own.pop()
            running.remove(sequence)
            free += len(sequence.readers)
            sequence.set_aside()
            self.waiting.appendleft(sequence)
        return free

    def next(self, running: SequenceOf[Sequence], free: int, *, others_wait: bool) -> Sequence | None:
        """The next sample, where it can begin beside these."""
        if not self.waiting or others_wait or len(self.waiting[0].readers) > free:
            return None
        own = [sequence for sequence in running if sequence.is_background]
        beside = len(own) < len(running)
        if beside and own and num_rows_of(own) + len(self.waiting[0].readers) > self._num_rows:
            return None
        return self.waiting.popleft()

    def active(self, running: SequenceOf[Sequence], *, others_wait: bool) -> list[Sequence]:
        """The samples that go on at this step."""
        own = [sequence for sequence in running if sequence.is_background]
        if len(own) == len(running) and not others_wait:
            return list(running)
        if others_wait and not self._can_set_aside:  # rows come free only where all go on
            return list(running)
        room, held = self._num_rows, set()
        for number, sequence in enumerate(own):
            room -= len(sequence.readers)
            if number and room < 0:
                held.add(sequence)
        return [sequence for sequence in running if sequence not in held]


def let_go(active: SequenceOf[Sequence]) -> None:
    """No reader waits for one that holds still."""
    going = {reader for sequence in active for reader in sequence.readers}
    for reader in going:
        if reader.source is not None and reader.source not in going:
            reader.dont_wait()


def before_others(reading: list[Reader], writing: list[Reader], background: set[Reader], budget: int | None):
    """Which prompts are read now, and how many tokens of them: those of others first, and of the background few at a time
    while others write."""
    own = [reader for reader in reading if reader not in background]
    if own or not reading:
        return own, budget
    if any(reader not in background for reader in writing):
        return reading, READ_BESIDE if budget is None else min(budget, READ_BESIDE)
    return reading, budget


def num_rows_of(sequences: SequenceOf[Sequence]) -> int:
    return sum(len(sequence.readers) for sequence in sequences)
