"""Guesses at the next tokens: from what the text has said before, or by rows that write ahead of the others. A wrong
guess costs time, never a token.

Guessed tokens are read along with the real one, on all branches, and then chosen one by one like any other: from the
guided distribution after the tokens before it, with the request's own random numbers. The first that is not what was
guessed makes the rest worthless, and it is forgotten. So with and without guesses the tokens are the same, greedy or
sampled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from counterpoint.constraints.state import State
from counterpoint.engine.processors import Processors
from counterpoint.engine.reader import Reader

LONGEST, SHORTEST = 4, 2  # tokens at the end of the text that are looked for earlier in it
MORE = 2  # guesses than were right the last time, by rows that write ahead


class Pace:
    """When to guess: after guesses that were wrong from the first token on, it waits twice as long each time."""

    def __init__(self) -> None:
        self._wait = self._wrong = 0

    @property
    def waits(self) -> bool:
        """Whether nothing should be guessed now."""
        return self._wait > 0

    def extend(self) -> None:
        """The text has one more token."""
        self._wait = max(0, self._wait - 1)

    def judge(self, num_right: int) -> None:
        """How many tokens of the last guess were right."""
        self._wrong = 0 if num_right else self._wrong + 1
        self._wait = 2**self._wrong - 1 if self._wrong > 1 else 0


class Lookup:
    """What followed the last time that the text said what it says now.

    Args:
        ids: the prompt.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # the tokens -> position after their last occurrence but the end
        self._pace = Pace()
        for token_id in ids:
            self._append(token_id)

    def extend(self, token_id: int) -> None:
        """The text has one more token."""
        self._append(token_id)
        self._pace.extend()

    def _append(self, token_id: int) -> None:
        end = len(self._ids)
        for n in range(SHORTEST, LONGEST + 1):
            if end >= n:
                self._after[tuple(self._ids[-n:])] = end
        self._ids.append(token_id)

    def guess(self, count: int) -> list[int]:
        """So many tokens that may come next; empty where nothing like the text's end came before."""
        if self._pace.waits or count < 1:
            return []
        for n in range(min(LONGEST, len(self._ids)), SHORTEST - 1, -1):
            at = self._after.get(tuple(self._ids[-n:]))
            if at is not None:
                return self._from(at, count)
        return []

    def _from(self, at: int, count: int) -> list[int]:
        """The text from a position on, and past its end once more from there."""
        ids: list[int] = []
        for place in range(at, at + count):
            ids.append(self._ids[place] if place < len(self._ids) else ids[place - len(self._ids)])
        return ids

    def judge(self, num_right: int) -> None:
        """How many tokens of the last guess were right."""
        self._pace.judge(num_right)


@dataclass(slots=True, eq=False)
class Ahead:
    """Rows that write ahead of their sequence, one token a forward, and so guess what it says next.

    Either the sequence's own rows that share the prompt's forward, or rows of a draft model. The guesses are drawn from
    these rows' own guided distribution with a copy of the request's random numbers.

    Args:
        readers: the rows, the conditional branch first.
        predictions, weights: the further branches among them, as in `Sequence`.
        source: random numbers; set to those of the request before each run of guesses.
        processors: a fork of the sequence's, before each run of guesses too.
        contexts: what each row begins with; None where the rows are the sequence's own.
        room: most tokens of output that the rows can hold, and their model's number of token ids; None is no bound.
    """

    readers: list[Reader]
    predictions: list[tuple[int, int]]
    weights: list[float]
    source: torch.Generator
    processors: Processors
    contexts: list[tuple[int, ...]] | None = None
    room: int | None = None
    vocab_size: int | None = None
    constraint: State | None = None  # a fork of the sequence's, likewise
    seen: list[list[Tensor]] = field(default_factory=list)  # of each row, (V,) after each token it read
    guesses: list[int] = field(default_factory=list)
    _written: list[int] = field(default_factory=list)  # the output that rows of a draft model hold or will
    _pace: Pace = field(default_factory=Pace)
    _most: int | None = None

    @property
    def is_own(self) -> bool:
        """Whether the rows are the sequence's own."""
        return self.contexts is None

    def count(self, most: int) -> int:
        """How many tokens to guess: as many as were right the last time, and a few more."""
        return 0 if self._pace.waits else most if self._most is None else min(most, self._most)

    def extend(self, token_id: int) -> None:
        """The text has one more token."""
        self._pace.extend()
        if self.vocab_size is not None and token_id >= self.vocab_size:
            self.room = 0

    def judge(self, num_right: int) -> None:
        """How many tokens of the last guess were right."""
        self._pace.judge(num_right)
        self._most = num_right + MORE

    def catch_up(
        self, output_ids: list[int], source: torch.Generator, processors: Processors, constraint: State | None
    ) -> None:
        """Get ready to write on after this output; what the rows hold of other guesses is forgotten."""
        self.source.set_state(source.get_state())
        self.processors = processors.fork()
        self.constraint = None if constraint is None else constraint.fork()
        self.guesses, self.seen = [], [[] for _ in self.readers]
        if self.is_own:
            return
        agreed = 0
        while agreed < min(len(self._written), len(output_ids)) and self._written[agreed] == output_ids[agreed]:
            agreed += 1
        for reader, context in zip(self.readers, self.contexts):
            reader.begin()
            if len(reader.history) > len(context) + agreed:
                del reader.history[len(context) + agreed :]
                reader.rows.crop(reader.row, len(reader.history))
            reader.todo = [*context, *output_ids][len(reader.history) :]
        self._written = list(output_ids)

    def look(self) -> None:
        """Take note of what the rows predict after the token they read."""
        for reader, seen in zip(self.readers, self.seen):
            seen.append(reader.logits.pop())

    def write(self, token_id: int) -> None:
        """Guess this token and have the rows read it next."""
        self.guesses.append(token_id)
        if not self.is_own:
            self._written.append(token_id)
        for reader in self.readers:
            reader.todo = [token_id]

    def predicted(self) -> list[Tensor]:
        """Logits (V,) of the conditional branch, then of each further branch, after the last token read."""
        return [self.seen[0][-1], *(self.seen[r][-1] for r, _ in self.predictions)]

    def hand_over(self) -> None:
        """Leave the sequence's own rows with the prediction after each guess, as if all had been read in one forward."""
        for reader, seen in zip(self.readers, self.seen):
            del reader.history[len(reader.history) - len(self.guesses) :]
            reader.logits, reader.ahead = seen[:1], seen[1:]

    def drop_branches(self) -> None:
        """Guidance has ended: only the conditional branch writes on."""
        if not self.is_own:
            for reader in self.readers[1:]:
                reader.free()
            self.contexts = self.contexts[:1]
        self.readers, self.predictions, self.weights = self.readers[:1], [], []

    def free(self) -> None:
        if not self.is_own:
            for reader in self.readers:
                reader.free()
