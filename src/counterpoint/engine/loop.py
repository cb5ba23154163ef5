"""THE decoding loop. Requests join and leave between steps; a request's branches advance together or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from counterpoint.engine.choose import choose
from counterpoint.engine.prefix import PrefixStore, find_source
from counterpoint.engine.request import Progress, Request
from counterpoint.engine.sequence import Reader, Sequence, new_sequence
from counterpoint.engine.skipping import decide, skippable
from counterpoint.errors import SamplingError, UnsupportedError
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed, Rows

MAX_CHUNK = 2048  # prompt tokens of one row in one forward: bounds the mask, which is their number squared
MOST_PADDED = 8  # columns; narrower rows are padded to it, for a forward costs about the same up to there
MOST_GUESSED = 32  # rows times columns read with guesses; more than that, and reading them is no longer nearly free


class Engine:
    """Runs many guided requests on one model, a forward of all their branches a step.

    Args:
        model: reads every conditional branch, and the further branches that name no model of their own.
        max_rows: most rows (branches of running samples) at once; more requests wait in the order of arrival.
        prefill_tokens: most prompt tokens read in one step while other requests are writing.
        idle_prefill_tokens: the same while none is writing; None reads all there is.
        draft_tokens: most tokens to guess at each step from what the text said before; 0 is none. The tokens are the
            same with any number.
        prefix_tokens: most tokens of ended requests to keep, so that others which begin alike read less; 0 is none.
        skips: leave out branches that cost a forward of their own at steps which they can't change. The tokens are the
            same either way.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int = 256,
        prefill_tokens: int = 512,
        idle_prefill_tokens: int | None = None,
        draft_tokens: int = 0,
        prefix_tokens: int = 0,
        skips: bool = True,
    ) -> None:
        idle = 1 if idle_prefill_tokens is None else idle_prefill_tokens
        for name, value in (("max_rows", max_rows), ("prefill_tokens", prefill_tokens), ("idle_prefill_tokens", idle)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SamplingError(f"{name} is {value!r}; use a whole number, 1 or more")
        for name, value in (("draft_tokens", draft_tokens), ("prefix_tokens", prefix_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SamplingError(f"{name} is {value!r}; use a whole number, 0 for none")
        self.model, self.max_rows, self.draft_tokens = model, max_rows, draft_tokens
        self.prefill_tokens, self.idle_prefill_tokens = prefill_tokens, idle_prefill_tokens
        self.skips = skips
        self._store = PrefixStore(prefix_tokens) if prefix_tokens else None
        self._rows: dict[Model, Rows] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._num_requests = 0

    @property
    def num_running(self) -> int:
        """Samples that hold rows."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Samples that wait for rows."""
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return sum(rows.num_rows for rows in self._rows.values())

    @property
    def num_bytes(self) -> int:
        """Memory of the branches' key and value buffers."""
        return sum(rows.num_bytes for rows in self._rows.values())

    @property
    def is_idle(self) -> bool:
        return not self._running and not self._waiting

    def add(self, request: Request) -> int:
        """Queue a request; returns its id.

        Raises:
            UsageError: the request is not possible on this model, or needs more rows than `max_rows`.
        """
        request.check(self.model)
        request_id, self._num_requests = self._num_requests, self._num_requests + 1
        samples = [
            new_sequence(request, request_id, index, self.model, self._rows_of, drafts=self.draft_tokens > 0)
            for index in range(request.num_samples)
        ]
        if samples[0].readers[0].suffixes and not samples[0].readers[0].rows.can_crop:
            raise UnsupportedError(
                f"{self.model.name} keeps a state that can't be rolled back, so it can't read a suffix at each step; "
                "give the suffix as a negative of its own"
            )
        if len(samples[0].readers) > self.max_rows:
            raise SamplingError(
                f"the request has {len(samples[0].readers)} branches and max_rows is {self.max_rows}; "
                "raise max_rows or drop branches"
            )
        self._waiting.extend(samples)
        return request_id

    @torch.inference_mode()
    def cancel(self, request_id: int) -> list[Progress]:
        """End a request now; its rows are free at once. Empty where it is finished already."""
        ended = [s for s in (*self._running, *self._waiting) if s.request_id == request_id]
        self._running = [s for s in self._running if s.request_id != request_id]
        self._waiting = deque(s for s in self._waiting if s.request_id != request_id)
        return [sequence.finish("cancelled") for sequence in ended]

    def run(self) -> Iterator[Progress]:
        """Step until nothing is left.

        Raises:
            Exception: what a request failed of; the others can be run on.
        """
        while not self.is_idle:
            for progress in self.step():
                if progress.error is not None:
                    raise progress.error
                yield progress

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """Read what is to be read, in one forward for all rows that write; then choose a token for every sample whose
        branches are all ready. What fails for one request ends that request alone, with `Progress.error`."""
        self._admit()
        failed = [sequence.fail(error) for sequence, error in self._read().items()]
        self._running = [sequence for sequence in self._running if sequence.is_alive]
        progress = []
        while ready := [sequence for sequence in self._running if sequence.is_ready]:
            progress += choose(ready)  # again where the token was guessed and what follows it is known
        self._running = [sequence for sequence in self._running if sequence.is_alive]
        return failed + progress

    def _rows_of(self, model: Model) -> Rows:
        if model not in self._rows:
            self._rows[model] = model.new_rows()
        return self._rows[model]

    def _admit(self) -> None:
        in_use = sum(len(s.readers) for s in self._running)
        while self._waiting and in_use + len(self._waiting[0].readers) <= self.max_rows:
            sequence = self._waiting.popleft()
            earlier = [reader for s in self._running for reader in s.readers]
            for reader in sequence.readers:
                find_source(reader, earlier, self._store)
                earlier.append(reader)
            in_use += len(sequence.readers)
            self._running.append(sequence)

    def _draft_tokens(self) -> int:
        """How many tokens each sample may guess: a guess is nearly free while few rows are read."""
        num_rows = sum(len(sequence.readers) for sequence in self._running)
        return min(self.draft_tokens, MOST_GUESSED // num_rows - 1)

    def _read(self) -> dict[Sequence, Exception]:
        """Feed the rows, those that can be skipped only where they are needed; returns the sequences that failed."""
        num_guesses = self._draft_tokens() if self._running else 0
        for sequence in self._running:
            sequence.guess(num_guesses)
        held = {r: s for s in self._running for r in skippable(s)} if self.skips else {}
        failed = self._feed([(s, r) for s in self._running for r in s.readers if r not in held])
        needed = {s for s in set(held.values()) if s not in failed and not decide(s)}
        late = self._feed([(s, r) for r, s in held.items() if s in needed]) if needed else {}
        return failed | late

    def _feed(self, pairs: list[tuple[Sequence, Reader]]) -> dict[Sequence, Exception]:
        writing, reading, owner = [], [], {}
        for sequence, reader in pairs:
            owner[reader] = sequence
            if reader.todo:
                (writing if sequence.output_ids else reading).append(reader)
        reading = [reader for reader in reading if reader.begin()]
        budget = self.prefill_tokens if writing else self.idle_prefill_tokens
        parts = [(reader, len(reader.todo)) for reader in writing] + _portions(reading, budget)
        failed: dict[Sequence, Exception] = {}
        for rows in {id(reader.rows): reader.rows for reader, _ in parts}.values():
            own = [part for part in parts if part[0].rows is rows]
            for batch in _batches(own) if rows.is_joint else [[part] for part in own]:
                for reader, error in _forward_or_halve(rows, batch):
                    failed[owner[reader]] = error
        return failed


def _portions(reading: list[Reader], budget: int | None) -> list[tuple[Reader, int]]:
    """How much of each prompt is read now. Half of the budget is the oldest reader's and the rest goes to the shortest
    first, so that a long prompt does not hold up short ones, nor many short ones a long one."""
    if not reading:
        return []
    left = sum(len(reader.todo) for reader in reading) if budget is None else budget
    sizes = {reader: 0 for reader in reading}
    oldest, shortest = reading[0], sorted(reading, key=lambda reader: len(reader.todo))
    for reader, most in [(oldest, -(-left // 2)), *((reader, left) for reader in shortest)]:
        # A row that can't be read in parts is read whole, whatever the budget.
        room = min(len(reader.todo), MAX_CHUNK) if reader.rows.can_crop else len(reader.todo)
        more = min(room - sizes[reader], most, left) if reader.rows.can_crop else room - sizes[reader]
        sizes[reader], left = sizes[reader] + max(more, 0), left - max(more, 0)
    return [(reader, size) for reader, size in sizes.items() if size > 0]


def _batches(parts: list[tuple[Reader, int]]) -> list[list[tuple[Reader, int]]]:
    """Rows of like width go in one forward, so that padding stays small: all that write, then those that read."""
    batches: list[list[tuple[Reader, int]]] = []
    for part in sorted(parts, key=_width):
        if batches and _width(part) <= max(MOST_PADDED, 2 * _width(batches[-1][0])):
            batches[-1].append(part)
        else:
            batches.append([part])
    return batches


def _width(part: tuple[Reader, int]) -> int:
    return part[1] + (len(part[0].suffixes[0]) if part[0].suffixes else 0) + len(part[0].guess)


def _forward_or_halve(rows: Rows, parts: list[tuple[Reader, int]]) -> list[tuple[Reader, Exception]]:
    """Feed the rows; a forward that fails is tried again in halves, which leaves those that fail by themselves."""
    try:
        readers = _forward(rows, parts)
    except Exception as error:  # of whatever kind: it ends one request and must not end the others
        if len(parts) == 1:
            return [(parts[0][0], error)]
        middle = len(parts) // 2
        return _forward_or_halve(rows, parts[:middle]) + _forward_or_halve(rows, parts[middle:])
    return [failure for reader in readers for failure in _forward_suffixes(rows, reader)]


def _forward(rows: Rows, parts: list[tuple[Reader, int]]) -> list[Reader]:
    """Feed the rows; returns the readers that have nothing left to read."""
    feeds, wanted = [], []
    for reader, size in parts:
        ids = reader.todo[:size]
        if size < len(reader.todo):
            feeds.append(Feed(reader.row, ids, columns=()))
            continue
        # The first suffix rides along with the tokens; it is read after them and forgotten.
        suffix = reader.suffixes[0] if reader.suffixes else ()
        columns = (size - 1, size + len(suffix) - 1) if suffix else range(size - 1, size + len(reader.guess))
        feeds.append(Feed(reader.row, [*ids, *suffix, *reader.guess], columns=columns, scratch=len(suffix)))
        wanted += [reader] * len(columns)
    predicted = rows.forward(feeds)
    for reader, size in parts:
        reader.history += reader.todo[:size]
        reader.todo = reader.todo[size:]
    for reader, logits in zip(wanted, predicted):
        (reader.ahead if reader.guess and reader.logits else reader.logits).append(logits)
    return list(dict.fromkeys(wanted))


def _forward_suffixes(rows: Rows, reader: Reader) -> list[tuple[Reader, Exception]]:
    try:
        for suffix in reader.suffixes[1:]:
            reader.logits.append(rows.forward([Feed(reader.row, suffix, scratch=len(suffix))])[0])
    except Exception as error:  # as above
        return [(reader, error)]
    return []
