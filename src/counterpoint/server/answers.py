"""From the engine's progress to OpenAI's objects: what all answers have in common."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from counterpoint import __version__
from counterpoint.engine import Completion, Progress, TokenLogprob
from counterpoint.server.errors import ApiError
from counterpoint.server.offsets import Offsets
from counterpoint.server.work import Work
from counterpoint.trace.jsonl import step_fields
from counterpoint.trace.labels import Labeller
from counterpoint.trace.record import LIMITS, Step
from counterpoint.trace.recorder import Recorder
from counterpoint.wire.call_pieces import CallPiece, CallPieces

DONE = b"data: [DONE]\n\n"
FINGERPRINT = f"counterpoint-{__version__}"  # what, with a seed, an answer can be had again from


@dataclass(slots=True)
class Sample:
    """What is known of one choice while it is written."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    traced: list[dict[str, Any]] = field(default_factory=list)
    offsets: Offsets | None = None
    pieces: CallPieces | None = None  # reads its calls of tools, where it is such
    completion: Completion | None = None

    @property
    def finish_reason(self) -> str | None:
        """As OpenAI's clients know it: to them a full context is a length too."""
        reason = self.completion.finish_reason if self.completion else None
        return "length" if reason == "context" else reason

    @property
    def mean_logprob(self) -> float:
        """Of a token, by which samples are compared."""
        return sum(t.logprob for t in self.logprobs) / max(1, len(self.logprobs))


@dataclass(slots=True)
class Scored:
    """What is known of a prompt whose scores are asked for."""

    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_over: bool = False
    held: list[Progress] = field(default_factory=list)  # what came of its samples before that


class Answer:
    """One answer, whole or in chunks. Subclasses know the shape of a choice.

    Args:
        body: the request's fields.
        model_name: what clients call the model.
        label: the labels of tokens.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, work: Work, *, body: Any, model_name: str, label: Labeller) -> None:
        self.work, self.body, self.label, self.model_name = work, body, label, model_name
        self.id = f"{self.prefix}{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.samples = [Sample(offsets=Offsets(label, echo)) for echo in work.echoes for _ in range(work.num_samples)]
        self.scored = [Scored(is_over=score is None) for score in work.scores]
        self._tasks = work.tasks

    @property
    def is_long(self) -> bool:
        """Whether much is told of each token, so that putting it together takes a while."""
        return self.work.shows_logprobs or any(recorder is not None for recorder in self.work.recorders)

    def take(self, number: int, progress: Progress) -> list[dict[str, Any]]:
        """Note what happened in task `number` of the work; returns the choices that a stream shows of it."""
        is_score, prompt, _ = self._tasks[number]
        scored = self.scored[prompt]
        if not is_score:
            if scored.is_over:
                return self._take_sample(prompt, progress)
            scored.held.append(progress)
            return []
        if progress.logprob is not None:
            scored.logprobs.append(progress.logprob)
        if progress.completion is None:
            return []
        scored.is_over = True
        held, scored.held = scored.held, []
        shown = [choice for one in held for choice in self._take_sample(prompt, one)]
        return shown if self.work.writes else self._unwritten(prompt)

    def start(self) -> bytes:
        """The first events of a stream: the choices of prompts of which nothing is asked but an echo."""
        if self.work.writes:
            return b""
        echoed = [number for number, scored in enumerate(self.scored) if scored.is_over]
        return self.events([choice for number in echoed for choice in self._unwritten(number)])

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        """One server-sent event."""
        body = self._head(self.chunk_object) | {"choices": choices}
        if self.body.wants_usage:
            body["usage"] = usage or (self.usage() if self.body.wants_usage_always else None)
        return event(body)

    def events(self, choices: list[dict[str, Any]]) -> bytes:
        """The events that show these choices."""
        return b"".join(self.chunk([choice]) for choice in choices)

    def end(self) -> bytes:
        """The last events of a stream."""
        return (self.chunk([], self.usage()) if self.body.wants_usage else b"") + DONE

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that fails, as OpenAI's clients look for it."""
        return event(error.body)

    def whole(self) -> dict[str, Any]:
        """The answer at once: of each prompt the likeliest samples, where not all are shown."""
        choices = []
        for number in range(len(self.work.requests)):
            n = self.work.num_samples
            own = self.samples[number * n : (number + 1) * n]
            if self.work.num_shown < n:
                own = sorted(own, key=lambda sample: -sample.mean_logprob)[: self.work.num_shown]
            for sample in own:
                choice = self._choice(len(choices), number, sample)
                choice |= {"trace": sample.traced} if sample.traced else {}
                choice |= _alarms(sample)
                choices.append(choice | (self.work.shown[number] or {}) | self._ids(number, sample.token_ids, True))
        return self._head(self.whole_object) | {"choices": choices, "usage": self.usage()} | self._more()

    def usage(self) -> dict[str, Any]:
        """In tokens. A prompt counts once, whatever its number of samples; `cached_tokens` of the prompts were kept from
        before. `branch_tokens` is all that the further branches read beside it: their contexts, and every generated
        token once for each branch. `shared_tokens` of prompts and branches had been computed for other rows already,
        counted for each sample once it has ended. `discarded_tokens`, under a watch, were written and given up."""
        work, n = self.work, self.work.num_samples
        prompt = sum(len(request.prompt_ids) for request in work.requests)
        completion = sum(len(sample.token_ids) for sample in self.samples)
        branch = 0
        for number, request in enumerate(work.requests):
            written = sum(len(sample.token_ids) for sample in self.samples[number * n : (number + 1) * n])
            branch += sum(len(b.ids) + written for b in request.useful_branches)
        ended = [sample.completion.usage if sample.completion else None for sample in self.samples]
        watched = {} if work.watch is None else {"discarded_tokens": sum(u.discarded_tokens for u in ended if u)}
        return watched | {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(u.shared_prompt_tokens for u in ended[::n] if u)},
            "branch_tokens": branch,
            "shared_tokens": sum(u.shared_tokens for u in ended if u),
        }

    def name_of(self, token_id: int) -> str:
        """What a token is called in this answer: by its label, or by its id where the request asks for that."""
        return f"token_id:{token_id}" if self.body.return_tokens_as_token_ids else self.label(token_id)

    def calls_of(self, sample: Sample) -> list[tuple[str, str]] | None:
        """The calls of tools that a whole output is, names with arguments; None where it is a text, or was cut short."""
        return None if self.work.calls is None else self.work.calls.read(sample.text)

    def pieces_of(self, sample: Sample, text: str) -> list[CallPiece]:
        """What further text of a sample adds to its calls of tools."""
        if sample.pieces is None:
            sample.pieces = self.work.calls.pieces()
        return sample.pieces.read(text)

    def _take_sample(self, prompt: int, progress: Progress) -> list[dict[str, Any]]:
        index = prompt * self.work.num_samples + progress.index
        sample, recorder = self.samples[index], self.work.recorders[prompt]
        traced: list[dict[str, Any]] = []
        if recorder is not None and progress.token_id is not None:
            traced.append(_traced(recorder, progress, len(sample.token_ids), self.label))
        first = not sample.token_ids
        ids = [] if progress.token_id is None else [progress.token_id]
        sample.token_ids += ids
        sample.text += progress.text
        sample.traced += traced
        logprobs = [] if progress.logprob is None else [progress.logprob]
        sample.logprobs += logprobs
        sample.completion = progress.completion
        choices = list(self._deltas(index, prompt, first, progress.text, logprobs, sample))
        told = {"trace": traced} if traced else {}
        if first and self.work.shown[prompt] is not None:
            told |= self.work.shown[prompt]
        told |= self._ids(prompt, ids, first) | _alarms(sample)
        if told and choices:
            choices[0] |= told
        elif told:
            choices = [self._silent(index) | told]
        return choices

    def _unwritten(self, prompt: int) -> list[dict[str, Any]]:
        """The choices of a prompt after which nothing is written."""
        n = self.work.num_samples
        return [self._choice(i, prompt, self.samples[i]) for i in range(prompt * n, (prompt + 1) * n)]

    def _ids(self, prompt: int, ids: list[int], first: bool) -> dict[str, Any]:
        if not self.work.shows_ids:
            return {}
        of_prompt = {"prompt_token_ids": list(self.work.requests[prompt].prompt_ids)} if first else {}
        return {"token_ids": list(ids)} | of_prompt

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model_name,
            "system_fingerprint": FINGERPRINT,
        }

    def _more(self) -> dict[str, Any]:
        """Further fields of a whole answer."""
        return {}

    def _choice(self, index: int, prompt: int, sample: Sample) -> dict[str, Any]:
        raise NotImplementedError

    def _silent(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def _deltas(
        self, index: int, prompt: int, first: bool, text: str, logprobs: list[TokenLogprob], sample: Sample
    ) -> Iterator[dict[str, Any]]:
        raise NotImplementedError


def _alarms(sample: Sample) -> dict[str, Any]:
    """The alarms of a sample that has ended, where it was watched."""
    alarms = None if sample.completion is None else sample.completion.alarms
    return {} if alarms is None else {"alarms": [dataclasses.asdict(alarm) for alarm in alarms]}


def new_call_id() -> str:
    """A name for one call of a tool, under which its result comes back."""
    return f"call_{uuid.uuid4().hex[:24]}"


def event(body: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + as_json(body) + b"\n\n"


def as_json(value: Any) -> bytes:
    """JSON in UTF-8. Half a surrogate, which a text part of the client's may hold, is escaped; what is no number is null."""
    try:
        return to_json(value, inf_nan_mode="null")  # a long answer by `json` holds the engine up for longer
    except (PydanticSerializationError, UnicodeEncodeError):
        pass
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


def _traced(recorder: Recorder, progress: Progress, index: int, label: Labeller) -> dict[str, Any]:
    """What every branch thought of one token, in the fields of a trace's lines."""
    numbers = recorder.steps[progress.index][index]
    step = Step(
        index=index,
        token_id=numbers.token_id,
        text=progress.text,
        guidance=numbers.guidance,
        artefact=LIMITS.mark(numbers.seen[0]),
        entropy=numbers.entropy,
        shift=numbers.shift,
        divergence=numbers.divergence,
        cond=numbers.seen[0],
        branches=numbers.seen[1:-1],
        guided=numbers.seen[-1],
    )
    return step_fields(step, _Labels(label))


class _Labels(dict):
    """Labels made when they are asked for."""

    def __init__(self, label: Labeller) -> None:
        super().__init__()
        self._label = label

    def __missing__(self, token_id: int) -> str:
        return self._label(token_id)
