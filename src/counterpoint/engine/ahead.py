"""Guesses at the next tokens by rows that write ahead of the others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from counterpoint.constraints.state import State
from counterpoint.engine.pace import Pace
from counterpoint.engine.processors import Processors
from counterpoint.engine.reader import Reader

MORE = 2  # guesses than were right the last time


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

    def is_done(self, count: int) -> bool:
        """Whether it has `count` guesses. Rows of the sequence itself have to have read them too; others need not."""
        return len(self.guesses) == count and (not self.is_own or not self.readers[0].todo)

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
