"""THE decoding loop. Requests join and leave between steps; a request's branches advance together or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from counterpoint.engine.choose import choose
from counterpoint.engine.prefix import find_source
from counterpoint.engine.request import Progress, Request
from counterpoint.engine.sequence import Reader, Sequence, new_sequence
from counterpoint.errors import SamplingError, UnsupportedError
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed, Rows

MAX_CHUNK = 2048  # prompt tokens of one row in one forward: bounds the mask, which is their number squared


class Engine:
    """Runs many guided requests on one model, a forward of all their branches a step.

    Args:
        model: reads every conditional branch, and the further branches that name no model of their own.
        max_rows: most rows (branches of running samples) at once; more requests wait in the order of arrival.
        prefill_tokens: most prompt tokens read in one step while other requests are writing.
    """

    def __init__(self, model: Model, *, max_rows: int = 256, prefill_tokens: int = 512) -> None:
        for name, value in (("max_rows", max_rows), ("prefill_tokens", prefill_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SamplingError(f"{name} is {value!r}; use a whole number, 1 or more")
        self.model, self.max_rows, self.prefill_tokens = model, max_rows, prefill_tokens
        self._rows: dict[int, Rows] = {}
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
            new_sequence(request, request_id, index, self.model, self._rows_of) for index in range(request.num_samples)
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

    def cancel(self, request_id: int) -> list[Progress]:
        """End a request now; its rows are free at once. Empty where it is finished already."""
        ended = [s for s in (*self._running, *self._waiting) if s.request_id == request_id]
        self._running = [s for s in self._running if s.request_id != request_id]
        self._waiting = deque(s for s in self._waiting if s.request_id != request_id)
        return [sequence.finish("cancelled") for sequence in ended]

    def run(self) -> Iterator[Progress]:
        """Step until nothing is left."""
        while not self.is_idle:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """Read what is to be read, in one forward for all rows that write; then choose a token for every sample whose
        branches are all ready."""
        self._admit()
        self._read()
        ready = [sequence for sequence in self._running if sequence.is_ready]
        progress = choose(ready)
        finished = {id(s) for s, p in zip(ready, progress) if p.completion is not None}
        if finished:
            self._running = [s for s in self._running if id(s) not in finished]
        return progress

    def _rows_of(self, model: Model) -> Rows:
        if id(model) not in self._rows:
            self._rows[id(model)] = model.new_rows()
        return self._rows[id(model)]

    def _admit(self) -> None:
        in_use = sum(len(s.readers) for s in self._running)
        while self._waiting and in_use + len(self._waiting[0].readers) <= self.max_rows:
            sequence = self._waiting.popleft()
            earlier = [reader for s in self._running for reader in s.readers]
            for reader in sequence.readers:
                find_source(reader, earlier)
                earlier.append(reader)
            in_use += len(sequence.readers)
            self._running.append(sequence)

    def _read(self) -> None:
        writing, reading = [], []
        for sequence in self._running:
            for reader in sequence.readers:
                if reader.todo:
                    (writing if sequence.output_ids else reading).append(reader)
        budget = self.prefill_tokens if writing else max(self.prefill_tokens, sum(len(r.todo) for r in reading))
        parts: list[tuple[Reader, int]] = [(reader, len(reader.todo)) for reader in writing]
        for reader in reading:
            if not reader.begin():
                continue
            # A row that can't be read in parts is read whole, whatever the budget.
            size = min(len(reader.todo), budget, MAX_CHUNK) if reader.rows.can_crop else len(reader.todo)
            if size > 0:
                parts.append((reader, size))
                budget -= size
        for rows in {id(reader.rows): reader.rows for reader, _ in parts}.values():
            own = [part for part in parts if part[0].rows is rows]
            for batch in _batches(own):
                _forward(rows, batch)


def _batches(parts: list[tuple[Reader, int]]) -> list[list[tuple[Reader, int]]]:
    """Rows of like width go in one forward, so that padding stays small: all that write, then those that read."""
    batches: list[list[tuple[Reader, int]]] = []
    for part in sorted(parts, key=_width):
        if batches and _width(part) <= 2 * _width(batches[-1][0]):
            batches[-1].append(part)
        else:
            batches.append([part])
    return batches


def _width(part: tuple[Reader, int]) -> int:
    return part[1] + (len(part[0].suffixes[0]) if part[0].suffixes else 0)


def _forward(rows: Rows, parts: list[tuple[Reader, int]]) -> None:
    feeds, wanted = [], []
    for reader, size in parts:
        ids, reader.todo = reader.todo[:size], reader.todo[size:]
        reader.history += ids
        if reader.todo:
            feeds.append(Feed(reader.row, ids, columns=()))
            continue
        # The first suffix rides along with the tokens; it is read after them and forgotten.
        suffix = reader.suffixes[0] if reader.suffixes else ()
        columns = (size - 1, size + len(suffix) - 1) if suffix else (size - 1,)
        feeds.append(Feed(reader.row, [*ids, *suffix], columns=columns, scratch=len(suffix)))
        wanted += [reader] * len(columns)
    for reader, logits in zip(wanted, rows.forward(feeds)):
        reader.logits.append(logits)
    for reader in dict.fromkeys(wanted):
        for suffix in reader.suffixes[1:]:
            reader.logits.append(rows.forward([Feed(reader.row, suffix, scratch=len(suffix))])[0])
