"""THE decoding loop. Requests join and leave between steps; a request's branches advance together or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch

from counterpoint.contexts.other_model import check_tokenizer
from counterpoint.engine.ahead import Ahead
from counterpoint.engine.background import Background, before_others, let_go, num_rows_of
from counterpoint.engine.constrained import begin_masks
from counterpoint.engine.drafting import new_drafter, write_ahead
from counterpoint.engine.feeding import MAX_CHUNK, Shapes, feed, portions
from counterpoint.engine.lookup import Lookup
from counterpoint.engine.prefix import PrefixStore
from counterpoint.engine.reader import Reader
from counterpoint.engine.request import Completion, Progress, Request
from counterpoint.engine.sequence import Sequence, new_sequence
from counterpoint.engine.skipping import decide, skippable
from counterpoint.engine.turns import Turns
from counterpoint.errors import SamplingError, UnsupportedError
from counterpoint.models.model import Model
from counterpoint.models.rows import Rows

READ_BLOCK = 64  # tokens; shorter blocks keep more of a prompt, and read slower
MOST_IDLE = 8  # models whose rows are kept though no request uses them: a request may name a state that none has again
MOST_GUESSED = 32  # rows times columns read with guesses; more than that, and reading them is no longer nearly free


class Engine:
    """Runs many guided requests on one model, a forward of all their branches a step.

    Args:
        model: reads every conditional branch, and the further branches that name no model of their own.
        max_rows: most rows (branches of running samples) at once; more requests wait in the order of arrival.
        prefill_tokens: most prompt tokens read in one step while other requests are writing.
        idle_prefill_tokens: the same while none is writing; None reads all there is.
        draft_tokens: most tokens to guess at each step; 0 is none. The tokens are the same with any number, and
            whoever guesses: what followed the same words earlier in the text, unless one of the next two is given.
        draft_model: a smaller model with the same tokenizer, which guesses instead. It reads the request's contexts in
            rows of its own, which `max_rows` does not count.
        draft_ahead: where branches cost a forward of their own (another model, an adapter, rows that can't share one),
            the prompt's branch guesses, and those branches read its guesses in one forward.
        prefix_tokens: most tokens of ended requests to keep, so that others which begin alike read less; 0 is none.
        skips: leave out branches that cost a forward of their own at steps which they can't change. The tokens are the
            same either way.
        repeatable: a request's tokens are the same to the bit in every precision, whatever runs beside it and whatever was
            kept. Costs time: prompts are read one by one, and rows together only where that changes no bit.
        background_rows: most rows that background requests use beside others, see `engine.background`.
        pauses: a step may take seconds to make later ones quicker, by compiling them, where so much work is to come that
            it pays. False where somebody waits for each token. A model with compile=True compiles either way.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int = 256,
        prefill_tokens: int = 512,
        idle_prefill_tokens: int | None = None,
        draft_tokens: int = 0,
        draft_model: Model | None = None,
        draft_ahead: bool = False,
        prefix_tokens: int = 0,
        skips: bool = True,
        repeatable: bool = False,
        background_rows: int = 8,
        pauses: bool = True,
    ) -> None:
        idle = 1 if idle_prefill_tokens is None else idle_prefill_tokens
        for name, value in (
            ("max_rows", max_rows), ("prefill_tokens", prefill_tokens), ("idle_prefill_tokens", idle),
            ("background_rows", background_rows),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SamplingError(f"{name} is {value!r}; use a whole number, 1 or more", param=name)
        for name, value in (("draft_tokens", draft_tokens), ("prefix_tokens", prefix_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SamplingError(f"{name} is {value!r}; use a whole number, 0 for none", param=name)
        if (draft_model is not None or draft_ahead) and not draft_tokens:
            raise SamplingError("draft_tokens is 0, so nothing would be guessed; use 4, say", param="draft_tokens")
        if draft_model is not None and draft_ahead:
            raise SamplingError("draft_model and draft_ahead are both given; keep the one that is to guess")
        self.model, self.max_rows, self.draft_tokens = model, max_rows, draft_tokens
        self.draft_model, self.draft_ahead = draft_model, draft_ahead
        self.prefill_tokens, self.idle_prefill_tokens = prefill_tokens, idle_prefill_tokens
        self.skips, self.pauses, self.repeatable = skips, pauses and not repeatable, repeatable
        # In float32 a kept beginning changes no token; in less, one that was read in other shapes does.
        in_blocks = repeatable or (prefix_tokens and model.dtype not in (torch.float32, torch.float64))
        self._shapes = Shapes(READ_BLOCK if in_blocks else None, repeatable)
        self._store = PrefixStore(prefix_tokens) if prefix_tokens else None
        self._rows: dict[Model, Rows] = {}
        self._waiting: deque[Sequence] = deque()
        self._background = Background(background_rows, can_set_aside=not repeatable)
        self._running: list[Sequence] = []
        self._turns = Turns()
        self._num_requests = 0
        if draft_model is not None:
            check_tokenizer(model, draft_model, role="draft for")
            for one in (model, draft_model):
                if not self._rows_of(one).can_crop:
                    raise UnsupportedError(
                        f"{one.name} keeps a state that can't be rolled back, so guesses can't be tried; "
                        "leave draft_model out"
                    )

    @property
    def num_running(self) -> int:
        """Samples that hold rows."""
        return len(self._running)

    @property
    def num_background(self) -> int:
        """Background samples that hold rows."""
        return sum(sequence.is_background for sequence in self._running)

    @property
    def num_waiting(self) -> int:
        """Samples that wait for rows."""
        return len(self._waiting) + len(self._background.waiting)

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
        return not self._running and not self.num_waiting

    def add(self, request: Request, *, background: bool = False) -> int:
        """Queue a request; returns its id.

        Args:
            background: nobody waits for it; it gives way to requests for which somebody does.

        Raises:
            UsageError: the request is not possible on this model, or needs more rows than `max_rows`.
        """
        request.check(self.model)
        request_id, self._num_requests = self._num_requests, self._num_requests + 1
        samples = [
            new_sequence(request, request_id, index, self.model, self._rows_of) for index in range(request.num_samples)
        ]
        if self.draft_tokens:
            for sample in [] if request.given_ids else samples:
                sample.drafter = new_drafter(sample, self._rows_of, model=self.draft_model, ahead=self.draft_ahead)
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
        for sample in samples:
            sample.is_background = background
        (self._background.waiting if background else self._waiting).extend(samples)
        return request_id

    @torch.no_grad()
    def cancel(self, request_id: int) -> list[Progress]:
        """End a request now; its rows are free at once. Empty where it is finished already."""
        later = self._background.waiting
        ended = [s for s in (*self._running, *self._waiting, *later) if s.request_id == request_id]
        self._running = [s for s in self._running if s.request_id != request_id]
        for waiting in (self._waiting, later):
            left = [s for s in waiting if s.request_id != request_id]
            waiting.clear()
            waiting.extend(left)
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

    def complete(
        self, requests: Iterable[Request], *, on_progress: Callable[[Progress], None] | None = None
    ) -> list[list[Completion]]:
        """Run requests to their ends, beside whatever else the engine runs.

        Args:
            on_progress: called at each token of theirs.

        Returns:
            In the order of the requests, the completions of each, sample by sample.

        Raises:
            UsageError: one of them is not possible on this model; none has begun then.
            Exception: what one of them failed of; it and the others are cancelled.
        """
        left: dict[int, list[Completion | None]] = {}
        try:
            for request in requests:
                left[self.add(request)] = [None] * request.num_samples
            num_open = sum(map(len, left.values()))
            while num_open:
                for progress in self.step():
                    if progress.request_id not in left:
                        continue
                    if progress.error is not None:
                        raise progress.error
                    if on_progress is not None:
                        on_progress(progress)
                    if progress.completion is not None:
                        left[progress.request_id][progress.index] = progress.completion
                        num_open -= 1
        except BaseException:
            for request_id in left:
                self.cancel(request_id)
            raise
        return [[completion for completion in samples if completion is not None] for samples in left.values()]

    @torch.no_grad()
    def step(self) -> list[Progress]:
        """Read what is to be read, in one forward for all rows that write; then choose a token for every sample whose
        branches are all ready. What fails for one request ends that request alone, with `Progress.error`."""
        self._admit()
        active = self._active()
        failed = [sequence.fail(error) for sequence, error in self._read(active).items()]
        self._running = [sequence for sequence in self._running if sequence.is_alive]
        progress = self._turns.choose(self._running, active)
        self._running = [sequence for sequence in self._running if sequence.is_alive]
        return failed + progress

    def _rows_of(self, model: Model) -> Rows:
        if model not in self._rows:
            idle = [other for other, rows in self._rows.items() if not rows.num_rows and other is not self.model]
            for other in idle[: max(0, len(idle) - MOST_IDLE + 1)]:
                del self._rows[other]
            self._rows[model] = model.new_rows()
        return self._rows[model]

    def _admit(self) -> None:
        while self._waiting:
            num_rows, free = len(self._waiting[0].readers), self.max_rows - num_rows_of(self._running)
            if num_rows > free and num_rows > self._background.make_room(self._running, num_rows, free):
                break
            self._begin(self._waiting.popleft())
        while self._background.waiting:
            free = self.max_rows - num_rows_of(self._running)
            sequence = self._background.next(self._running, free, others_wait=bool(self._waiting))
            if sequence is None:
                return
            self._begin(sequence)

    def _begin(self, sequence: Sequence) -> None:
        earlier = [reader for s in self._running for reader in s.readers]
        for reader in sequence.readers:
            reader.find_source(earlier, self._store, self._shapes.block)
            earlier.append(reader)
        self._running.append(sequence)

    def _active(self) -> list[Sequence]:
        """The running samples that go on at this step."""
        active = self._background.active(self._running, others_wait=bool(self._waiting))
        if len(active) < len(self._running) or self._background.waiting:
            let_go(active)
        return active

    def _guess(self, active: list[Sequence]) -> dict[Sequence, Exception]:
        """Let samples guess their next tokens; returns those that failed at it."""
        # A sample whose turn has not come knows what follows already.
        active = [s for s in active if not (s.readers[0].is_reading_prompt or s.is_ready)]
        for sequence in active:
            if sequence.given_next is not None and not sequence.readers[0].suffixes:
                # What is given comes true for certain, so a part of a prompt's length is read at once.
                num = sequence.num_guessable(min(self.prefill_tokens, MAX_CHUNK))
                sequence.guess(sequence.request.given_ids[sequence.step : sequence.step + num])
        if not self.draft_tokens or not active:
            return {}
        # A guess is nearly free while few rows are read.
        num_rows = num_rows_of(active)
        most = self.draft_tokens if self.repeatable else min(self.draft_tokens, MOST_GUESSED // num_rows - 1)
        counts = {s: s.num_guessable(most) for s in active if s.drafter is not None}
        for sequence, count in counts.items():
            if isinstance(sequence.drafter, Lookup):
                guess = sequence.drafter.guess(count)
                if guess and sequence.constraint is not None:
                    guess = guess[: sequence.constraint.num_allowed(guess)]
                sequence.guess(guess)
        return write_ahead({s: n for s, n in counts.items() if n > 0 and isinstance(s.drafter, Ahead)})

    def _read(self, active: list[Sequence]) -> dict[Sequence, Exception]:
        """Feed the rows, those that can be skipped only where they are needed; returns the sequences that failed."""
        if self.pauses and self._running:
            num_steps = max(sequence.room - sequence.step for sequence in self._running)
            num_rounds = -(-(len(self._running) + len(self._waiting)) // len(self._running))
            for rows in self._rows.values():
                rows.expect(num_steps, num_rounds)
        failed = self._guess(active)
        running = [sequence for sequence in active if sequence not in failed]
        begin_masks(running)
        held = {r: s for s in running for r in skippable(s)} if self.skips else {}
        failed |= self._feed([(s, r) for s in running for r in s.readers if r not in held])
        needed = {s for s in set(held.values()) if s not in failed and not decide(s)}
        late = self._feed([(s, r) for r, s in held.items() if s in needed]) if needed else {}
        return failed | late

    def _feed(self, pairs: list[tuple[Sequence, Reader]]) -> dict[Sequence, Exception]:
        writing: list[Reader] = []
        reading: list[Reader] = []
        owner = {}
        for sequence, reader in pairs:
            owner[reader] = sequence
            if reader.todo:
                is_writing = sequence.output_ids and not reader.is_reading_prompt
                (writing if is_writing else reading).append(reader)
        reading = [reader for reader in reading if reader.begin() and reader.todo]
        budget = self.prefill_tokens if writing else self.idle_prefill_tokens
        background = {reader for reader, sequence in owner.items() if sequence.is_background}
        if background:
            reading, budget = before_others(reading, writing, background, budget)
        parts = [(reader, len(reader.todo)) for reader in writing] + portions(reading, budget, self._shapes.block)
        return {owner[reader]: error for reader, error in feed(parts, self._shapes).items()}
