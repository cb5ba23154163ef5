"""From the engine's progress to OpenAI's objects."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from counterpoint.engine import Completion, Progress, TokenLogprob
from counterpoint.server.reading import Work
from counterpoint.trace.jsonl import step_fields
from counterpoint.trace.record import LIMITS, Step
from counterpoint.trace.recorder import Recorder

Label = Callable[[int], str]
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Sample:
    """What is known of one choice while it is written."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    traced: list[dict[str, Any]] = field(default_factory=list)
    num_tokens: int = 0
    num_label_chars: int = 0  # of the labels, for `text_offset`
    completion: Completion | None = None

    @property
    def finish_reason(self) -> str | None:
        """As OpenAI's clients know it: to them a full context is a length too."""
        reason = self.completion.finish_reason if self.completion else None
        return "length" if reason == "context" else reason


class Answer:
    """One answer, whole or in chunks. Subclasses know the shape of a choice.

    Args:
        model_name: what clients call the model.
        label: token id to its text.
        with_usage: whether a stream ends with its usage.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, work: Work, *, model_name: str, label: Label, with_usage: bool = False) -> None:
        self._work, self._model_name, self._label, self._with_usage = work, model_name, label, with_usage
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._samples = [Sample() for _ in range(work.total)]

    def take(self, number: int, progress: Progress) -> list[dict[str, Any]]:
        """Note what happened to a sample of prompt `number`; returns the choices that a stream shows of it."""
        index = number * self._work.num_samples + progress.index
        sample, recorder = self._samples[index], self._work.recorders[number]
        traced: list[dict[str, Any]] = []
        if recorder is not None and progress.token_id is not None:
            traced.append(_traced(recorder, progress, sample.num_tokens, self._label))
        first = sample.num_tokens == 0
        sample.num_tokens += progress.token_id is not None
        sample.text += progress.text
        sample.traced += traced
        logprobs = [] if progress.logprob is None else [progress.logprob]
        sample.logprobs += logprobs
        sample.completion = progress.completion
        text = (self._work.echoes[number] if first else "") + progress.text
        choices = list(self._deltas(index, first, text, logprobs, sample))
        told = {"trace": traced} if traced else {}
        if first and self._work.shown[number] is not None:
            told |= self._work.shown[number]
        if told and choices:
            choices[0] |= told
        elif told:
            choices = [self._silent(index) | told]
        return choices

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        """One server-sent event."""
        body = self._head(self.chunk_object) | {"choices": choices}
        if self._with_usage:
            body["usage"] = usage
        return b"data: " + _json(body) + b"\n\n"

    def end(self) -> Iterator[bytes]:
        """The last events of a stream."""
        if self._with_usage:
            yield self.chunk([], self.usage())
        yield DONE

    def whole(self) -> dict[str, Any]:
        """The answer at once."""
        choices = []
        for index, sample in enumerate(self._samples):
            echo = self._work.echoes[index // self._work.num_samples]
            choice = self._choice(index, echo + sample.text, sample)
            told = self._work.shown[index // self._work.num_samples] or {}
            choices.append(choice | ({"trace": sample.traced} if sample.traced else {}) | told)
        return self._head(self.whole_object) | {"choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """In tokens. A prompt counts once, whatever its number of samples; `branch_tokens` is all that the further
        branches read beside it: their contexts, and every generated token once for each branch. `shared_tokens` of
        prompts and branches had been computed for other rows already, counted for each sample once it has ended."""
        prompt = sum(len(request.prompt_ids) for request in self._work.requests)
        completion = sum(sample.num_tokens for sample in self._samples)
        branch = 0
        for number, request in enumerate(self._work.requests):
            n = self._work.num_samples
            written = sum(sample.num_tokens for sample in self._samples[number * n : (number + 1) * n])
            branch += sum(len(b.ids) + written for b in request.useful_branches)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "branch_tokens": branch,
            "shared_tokens": sum(s.completion.usage.shared_tokens for s in self._samples if s.completion),
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model_name}

    def _choice(self, index: int, text: str, sample: Sample) -> dict[str, Any]:
        raise NotImplementedError

    def _silent(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def _deltas(
        self, index: int, first: bool, text: str, logprobs: list[TokenLogprob], sample: Sample
    ) -> Iterator[dict[str, Any]]:
        raise NotImplementedError


class CompletionAnswer(Answer):
    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _choice(self, index: int, text: str, sample: Sample) -> dict[str, Any]:
        logprobs = self._logprobs(sample.logprobs, 0) if sample.logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": sample.finish_reason}

    def _silent(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None}

    def _deltas(self, index, first, text, logprobs, sample):
        reason = sample.finish_reason
        if text or logprobs or reason:
            shown = self._logprobs(logprobs, sample.num_label_chars) if logprobs else None
            sample.num_label_chars += sum(len(self._label(t.token_id)) for t in logprobs)
            yield {"index": index, "text": text, "logprobs": shown, "finish_reason": reason}

    def _logprobs(self, logprobs: list[TokenLogprob], offset: int) -> dict[str, Any]:
        tokens = [self._label(t.token_id) for t in logprobs]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [t.logprob for t in logprobs],
            "top_logprobs": [
                {self._label(i): value for i, value in (*t.top, (t.token_id, t.logprob))} for t in logprobs
            ],
            "text_offset": offsets,
        }


class ChatAnswer(Answer):
    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _choice(self, index: int, text: str, sample: Sample) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(sample.logprobs),
            "finish_reason": sample.finish_reason,
        }

    def _silent(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}

    def _deltas(self, index, first, text, logprobs, sample):
        if first:
            yield self._silent(index) | {"delta": {"role": "assistant", "content": ""}}
        if text or logprobs:
            yield self._silent(index) | {"delta": {"content": text}, "logprobs": self._logprobs(logprobs)}
        if sample.completion:
            yield self._silent(index) | {"finish_reason": sample.finish_reason}

    def _logprobs(self, logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
        if not logprobs:
            return None
        content = [
            self._token(t.token_id, t.logprob) | {"top_logprobs": [self._token(i, value) for i, value in t.top]}
            for t in logprobs
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self._label(token_id)
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _traced(recorder: Recorder, progress: Progress, index: int, label: Label) -> dict[str, Any]:
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

    def __init__(self, label: Label) -> None:
        super().__init__()
        self._label = label

    def __missing__(self, token_id: int) -> str:
        return self._label(token_id)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
