"""One sample of one request while it runs: its rows, its output, what it still has to read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean as mean

import torch
from torch import Tensor

from counterpoint.constraints.state import State
from counterpoint.contexts import Inputs
from counterpoint.engine.ahead import Ahead
from counterpoint.engine.lookup import Lookup
from counterpoint.engine.loops import Loops
from counterpoint.engine.processors import NoEarlyEnd, Processors
from counterpoint.engine.reader import Reader
from counterpoint.engine.request import NUM_SEEDS, Completion, FinishReason, Progress, Request, TokenLogprob, Usage
from counterpoint.engine.text import TextStream
from counterpoint.engine.watching import Numbers, Watched, Watches, gentler
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.models.rows import Rows
from counterpoint.sampling import LEAST, generator, pass_over


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of one request.

    Args:
        readers: the distinct rows; the first is the conditional branch.
        predictions: for each further branch, which reader predicts it and which of that reader's logits it is.
        weights: for each further branch.
        guide: the request's, or a gentler one after an alarm.
        room: most tokens to generate.
        ends: tokens that end the output.
        constraint: how far the output is in keeping its form.
        drafter: guesses tokens; None where none are wanted.
    """

    request: Request
    request_id: int
    index: int
    model: Model
    readers: list[Reader]
    predictions: list[tuple[int, int]]
    weights: list[float]
    guide: Guide
    room: int
    ends: frozenset[int]
    source: torch.Generator
    stream: TextStream | None
    processors: Processors
    constraint: State | None = None
    loops: Loops | None = None
    watched: Watched | None = None
    drafter: Lookup | Ahead | None = None
    output_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_background: bool = False  # see `engine.background`
    is_decided: bool = False  # the next choice needs the conditional branch only
    num_skipped: int = 0
    num_guessed_right: int = 0
    vocab_size: int = 0  # of the predictions, once there are some
    _masses: list[tuple[int, float]] = field(default_factory=list)  # by step
    _num_guessed: int = 0
    _num_right: int = 0

    @property
    def step(self) -> int:
        """Number of the token that is chosen next."""
        return len(self.output_ids)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.readers[0].alive

    @property
    def is_ready(self) -> bool:
        """Whether every branch that is needed has its prediction of the next token."""
        return self.is_decided or all(reader.logits and not reader.todo for reader in self.readers)

    def predicted(self) -> list[Tensor]:
        """Logits (V,) of the conditional branch, then of each further branch."""
        own, cond = self.readers[0].rows, self.readers[0].logits[0]
        predicted = [cond]
        for r, i in self.needed:
            reader = self.readers[r]
            predicted.append(reader.logits[i] if reader.rows is own else as_wide(cond, reader.logits[i]))
        return predicted

    @property
    def needed(self) -> list[tuple[int, int]]:
        """The predictions of further branches that the next choice takes in."""
        return [] if self.is_decided else self.predictions

    @property
    def needed_weights(self) -> list[float]:
        """The weights of `needed`."""
        return [] if self.is_decided else self.weights

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> Progress:
        """Append the chosen token; the progress says whether it was the last."""
        self.output_ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        self.num_skipped += self.is_decided
        self.is_decided = False
        was_guessed = [reader.take(token_id) for reader in self.readers]
        if self.drafter is not None:
            self.drafter.extend(token_id)
            self._judge(was_guessed[0])
        if self.predictions and self.guide.stop is not None and self.step >= self.guide.stop:
            self._drop_branches()
        if self.constraint is not None:
            self.constraint.accept(token_id)
        is_end = token_id in self.ends
        text = ""
        if self.stream is not None:
            text = "" if is_end else self.stream.add(token_id, can_stop=self.step > self.request.min_tokens)
        reason: FinishReason | None = None
        is_loop = self.loops is not None and self.loops.extend(token_id)
        is_over = self.constraint is not None and self.constraint.is_over
        if is_end or is_over or (self.stream is not None and self.stream.stopped):
            reason = "stop"
        elif is_loop:
            reason = "loop"
        elif self.watched is not None and self.watched.stops:
            reason = "alarm"
        elif self.step >= self.room:
            reason = "length" if self.step >= self.request.max_tokens else "context"
        if reason is None:
            return Progress(self.request_id, self.index, token_id, text, logprob)
        return self.finish(reason, token_id, text, logprob)

    def hear(self, token_id: int, numbers: Numbers) -> bool:
        """Tell the watch of the token that is about to be appended. True where the text has gone back instead, to be
        written on from there under a gentler guide."""
        assert self.watched is not None
        if not self.watched.hear(self.step, numbers, can_ease=bool(self.predictions)):
            return False
        length = self.watched.alarms[-1].begin
        self.watched.go_back(length, self.step + 1 - length)
        self.guide, factor = gentler(self.guide, self.weights)
        self.weights = [weight * factor for weight in self.weights]
        if isinstance(self.drafter, Ahead):
            self.drafter.weights = [weight * factor for weight in self.drafter.weights]
        self._go_back(length)
        return True

    def _go_back(self, length: int) -> None:
        """Cut the output to its first `length` tokens. What was made of the text is made anew from what is left, and the
        random numbers go on as they would after it."""
        request = self.request
        del self.output_ids[length:], self.logprobs[length:]
        self._masses = [(step, mass) for step, mass in self._masses if step < length]
        for reader in self.readers:
            reader.go_back(length)
        if self.stream is not None:
            self.stream = TextStream(self.model.decode, request.stop)
        self.loops = None if request.loop is None else Loops(*request.loop)
        self.constraint = None if request.constraint is None else request.constraint.start()
        self.source.manual_seed(self.source.initial_seed())
        if isinstance(self.drafter, Lookup):
            self.drafter = Lookup(request.prompt_ids)
        for step, token_id in enumerate(self.output_ids, 1):
            if self.stream is not None:
                self.stream.add(token_id, can_stop=step > request.min_tokens)
            if self.loops is not None:
                self.loops.extend(token_id)
            if self.constraint is not None:
                self.constraint.accept(token_id)
            if isinstance(self.drafter, Lookup):
                self.drafter.extend(token_id)
            pass_over(self.vocab_size, request.sampling, self.source)
        self._num_guessed = self._num_right = 0

    def note_mass(self, mass: float) -> None:
        """The prompt's branch gave this probability to the tokens that the constraint allowed, and these were several."""
        self._masses.append((self.step, math.log(max(mass, LEAST))))

    def num_guessable(self, most: int) -> int:
        """How many tokens can be guessed now, at most so many: none before the first, and only what there is room for."""
        return min(most, self.room - self.step - 1) if self.output_ids and self.readers[0].todo else 0

    def guess(self, ids: list[int]) -> None:
        """Let every branch read some tokens that may come next along with the last one."""
        for reader in self.readers:
            reader.guess = list(ids)
        self._num_guessed, self._num_right = len(ids), 0

    @property
    def given_next(self) -> int | None:
        """The token that is given at this step; None where it is drawn."""
        given = self.request.given_ids
        return given[self.step] if self.step < len(given) else None

    def _judge(self, was_guessed: bool) -> None:
        self._num_right += was_guessed
        self.num_guessed_right += was_guessed
        if self._num_guessed and not (was_guessed and self.readers[0].ahead):
            self.drafter.judge(self._num_right)
            self._num_guessed = 0

    def finish(
        self, reason: FinishReason, token_id: int | None = None, text: str = "", logprob: TokenLogprob | None = None
    ) -> Progress:
        """Free the rows and report the whole."""
        shared = sum(reader.shared for reader in self.readers if reader.source is None)
        for reader in self.readers:
            reader.keep()
        self._free()
        if self.stream is not None:
            text += self.stream.finish()
            if self.stream.stopped:
                reason = "stop"
        completion = Completion(
            text=None if self.stream is None else self.stream.text,
            token_ids=tuple(self.output_ids),
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=len(self.request.prompt_ids),
                branch_tokens=sum(len(b.ids) for b in self.request.useful_branches),
                completion_tokens=len(self.output_ids),
                shared_tokens=shared,
                shared_prompt_tokens=self.readers[0].shared if self.readers[0].source is None else 0,
                guessed_tokens=self.num_guessed_right,
                skipped_steps=self.num_skipped,
                eases=0 if self.watched is None else self.watched.num_eases,
                discarded_tokens=0 if self.watched is None else self.watched.num_discarded,
            ),
            index=self.index,
            logprobs=None if self.request.logprobs is None else tuple(self.logprobs),
            complete=None if self.constraint is None else self._is_complete(),
            constraint_mass=math.exp(mean(mass for _, mass in self._masses)) if self._masses else None,
            alarms=None if self.watched is None else tuple(self.watched.alarms),
        )
        return Progress(self.request_id, self.index, token_id, text, logprob, completion)

    def _is_complete(self) -> bool:
        # A stop text, and what followed it in the same token, is cut from the output.
        return self.constraint.complete and not (self.stream is not None and self.stream.stopped)

    def set_aside(self) -> None:
        """Give the rows up for a while. Output and random numbers stay; begun again, it goes on with the next token."""
        for reader in self.readers:
            reader.set_aside()
        self.is_decided = False

    def fail(self, error: Exception) -> Progress:
        """Free the rows and report why there is no more; nothing here runs what may have failed."""
        self._free()
        return Progress(self.request_id, self.index, None, "", error=error)

    def _free(self) -> None:
        for reader in self.readers:
            reader.free()
        if isinstance(self.drafter, Ahead):
            self.drafter.free()

    def _drop_branches(self) -> None:
        for reader in self.readers[1:]:
            reader.keep()
            reader.free()
        self.readers[0].suffixes = ()
        self.readers, self.predictions, self.weights = self.readers[:1], [], []
        if isinstance(self.drafter, Ahead):
            self.drafter.drop_branches()


def as_wide(cond: Tensor, logits: Tensor) -> Tensor:
    """Another model's logits where and as wide as the conditional ones: what only padding told apart is cut or -inf."""
    missing = len(cond) - len(logits)
    if missing:
        logits = torch.nn.functional.pad(logits, (0, missing), value=float("-inf"))
    return logits.to(cond.device)


def new_sequence(
    request: Request, request_id: int, index: int, model: Model, rows_of: Callable[[Model], Rows]
) -> Sequence:
    """A sequence that has read nothing yet. Branches with the same context share one reader.

    Args:
        rows_of: model -> its rows.
    """
    branches = request.useful_branches
    suffixes = tuple(b.ids for b in branches if b.is_suffix)
    readers = [Reader(rows_of(model), list(request.prompt_ids), suffixes, inputs=request.inputs)]
    if request.watch is not None and request.watch.hears_states:
        readers[0].head = model.hf.get_output_embeddings()
    seen: dict[tuple[int, tuple[int, ...], Inputs | None], int] = {(id(model), request.prompt_ids, request.inputs): 0}
    predictions: list[tuple[int, int]] = []
    num_suffixes = 0
    for branch in branches:
        if branch.is_suffix:
            num_suffixes += 1
            predictions.append((0, num_suffixes))
            continue
        reads: Model = branch.model or model
        key = (id(reads), branch.ids, branch.inputs)
        if key not in seen:
            seen[key] = len(readers)
            readers.append(Reader(rows_of(reads), list(branch.ids), inputs=branch.inputs))
        predictions.append((seen[key], 0))
    stream = None if model.tokenizer is None else TextStream(model.decode, request.stop)
    seed = None if request.seed is None else (request.seed + index) % NUM_SEEDS
    processors = request.processors
    ends = request.stop_ids if request.ignore_eos else request.stop_ids | model.eos_ids
    if request.min_tokens:
        processors = (*processors, NoEarlyEnd(sorted(ends), request.min_tokens))
    return Sequence(
        request=request,
        request_id=request_id,
        index=index,
        model=model,
        readers=readers,
        predictions=predictions,
        weights=[b.weight for b in branches],
        room=request.room(model),
        ends=ends,
        guide=request.guide,
        source=generator(seed, model.device),
        stream=stream,
        processors=Processors(processors),
        constraint=None if request.constraint is None else request.constraint.start(),
        loops=None if request.loop is None else Loops(*request.loop),
        watched=None if request.watch is None else _watched(request, request.watch),
    )


def _watched(request: Request, watch: Watches) -> Watched:
    delay = watch.window if request.on_alarm == "ease" else 0
    return Watched(watch.start(), request.on_alarm, request.max_eases, delay)
