"""The answers of `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from counterpoint.engine import TokenLogprob
from counterpoint.server.answers import Answer, Sample, new_call_id
from counterpoint.wire.numbers import logprob


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": new_call_id(), "type": "function", "function": {"name": name, "arguments": arguments}}


class ChatAnswer(Answer):
    prefix, whole_object, chunk_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def _choice(self, index: int, prompt: int, sample: Sample) -> dict[str, Any]:
        calls, reason = self.calls_of(sample), sample.finish_reason
        message: dict[str, Any] = {"role": "assistant", "content": sample.text, "refusal": None}
        if calls:
            message, reason = message | {"content": None, "tool_calls": [_call(*call) for call in calls]}, "tool_calls"
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(sample.logprobs),
            "finish_reason": reason,
        }

    def _silent(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}

    def _deltas(self, index, prompt, first, text, logprobs, sample):
        if first:
            yield self._silent(index) | {
                "delta": {"role": "assistant", "content": "" if self.work.calls is None else None}
            }
        if self.work.calls is not None:
            yield from self._call_deltas(index, text, logprobs, sample)
            return
        if text or (logprobs and self.work.shows_logprobs):
            yield self._silent(index) | {"delta": {"content": text}, "logprobs": self._logprobs(logprobs)}
        if sample.completion:
            yield self._silent(index) | {"finish_reason": sample.finish_reason}

    def _call_deltas(
        self, index: int, text: str, logprobs: list[TokenLogprob], sample: Sample
    ) -> Iterator[dict[str, Any]]:
        """A call begins with its name, and its arguments follow as they are written."""
        if logprobs and self.work.shows_logprobs:
            yield self._silent(index) | {"logprobs": self._logprobs(logprobs)}
        for piece in self.pieces_of(sample, text):
            told: dict[str, Any] = {"index": piece.number, "function": {"arguments": piece.arguments}}
            if piece.name is not None:
                told = {"index": piece.number, **_call(piece.name, piece.arguments)}
            elif not piece.arguments:
                continue
            yield self._silent(index) | {"delta": {"tool_calls": [told]}}
        if sample.completion:
            is_called = bool(self.calls_of(sample))
            yield self._silent(index) | {"finish_reason": "tool_calls" if is_called else sample.finish_reason}

    def _more(self) -> dict[str, Any]:
        return {"prompt_token_ids": list(self.work.requests[0].prompt_ids)} if self.work.shows_ids else {}

    def _logprobs(self, logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
        if not logprobs or not self.work.shows_logprobs:
            return None
        content = [
            self._token(t.token_id, t.logprob) | {"top_logprobs": [self._token(i, value) for i, value in t.top]}
            for t in logprobs
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, value: float) -> dict[str, Any]:
        return {"token": self.name_of(token_id), "logprob": logprob(value), "bytes": list(self.label.bytes(token_id))}
