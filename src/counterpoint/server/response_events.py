"""The answers of `/v1/responses`, whole and as its events."""

from __future__ import annotations

import time
import uuid
from typing import Any

from counterpoint.engine import TokenLogprob
from counterpoint.server.answers import Answer, Sample, as_json, new_call_id
from counterpoint.server.errors import ApiError
from counterpoint.wire.call_pieces import CallPiece
from counterpoint.wire.numbers import logprob

#: fields of the request that the answer repeats, and what they are where they are left out
REPEATED = {
    "instructions": None, "max_output_tokens": None, "temperature": 1.0, "top_p": 1.0, "tools": [], "tool_choice": "auto",
    "parallel_tool_calls": True, "reasoning": None, "text": {"format": {"type": "text"}}, "top_logprobs": 0,
}  # fmt: skip


class ResponseAnswer(Answer):
    prefix, whole_object, chunk_object = "resp_", "response", "response"

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._message_id = f"msg_{uuid.uuid4().hex}"
        self._num_events = 0
        self._calls: list[dict[str, Any]] = []

    def start(self) -> bytes:
        begun = self._response("in_progress", [])
        first = self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)
        return first if self.work.calls else first + self._open_message()

    def events(self, choices: list[dict[str, Any]]) -> bytes:
        if self.work.calls:
            return b"".join(choice.get("told", b"") for choice in choices)
        return b"".join(self._part_event("response.output_text.delta", **choice) for choice in choices)

    def end(self) -> bytes:
        (sample,) = self.samples
        if self._calls:
            return self._close_cut_call() + self._event(f"response.{self._status}", response=self.whole())
        part = self._part(sample)
        item = self._item(self._status, [part])
        opened = b""
        if self.work.calls:
            opened = self._open_message() + self._part_event(
                "response.output_text.delta", delta=sample.text, logprobs=[]
            )
        return (
            opened
            + self._part_event("response.output_text.done", text=sample.text, logprobs=part["logprobs"])
            + self._part_event("response.content_part.done", part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event(f"response.{self._status}", response=self.whole())
        )

    def failure(self, error: ApiError) -> bytes:
        told = error.body["error"]
        return self._event("error", code=told["code"], message=told["message"], param=told["param"], error=told)

    def whole(self) -> dict[str, Any]:
        (sample,) = self.samples
        self._note_cut_calls()
        return self._response(self._status, self._calls or [self._item(self._status, [self._part(sample)])])

    def usage(self) -> dict[str, Any]:
        plain = super().usage()
        return {
            "input_tokens": plain["prompt_tokens"],
            "input_tokens_details": plain["prompt_tokens_details"],
            "output_tokens": plain["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": plain["total_tokens"],
            "branch_tokens": plain["branch_tokens"],
            "shared_tokens": plain["shared_tokens"],
        }

    @property
    def _status(self) -> str:
        return "incomplete" if self.samples[0].finish_reason == "length" else "completed"

    def _piece_events(self, piece: CallPiece) -> bytes:
        """Note what is new of a call, and tell it."""
        told = b""
        if piece.name is not None:
            item = {
                "type": "function_call", "id": f"fc_{uuid.uuid4().hex}", "call_id": new_call_id(), "name": piece.name,
                "arguments": "", "status": "in_progress",
            }  # fmt: skip
            self._calls.append(item)
            told = self._event("response.output_item.added", output_index=piece.number, item=item)
        item = self._calls[piece.number]
        at = {"output_index": piece.number, "item_id": item["id"]}
        if piece.arguments:
            item = item | {"arguments": item["arguments"] + piece.arguments}
            told += self._event("response.function_call_arguments.delta", delta=piece.arguments, **at)
        if piece.is_whole:
            item = item | {"status": "completed"}
            told += self._close_call(piece.number, item)
        self._calls[piece.number] = item
        return told

    def _note_cut_calls(self) -> None:
        self._calls = [c if c["status"] == "completed" else c | {"status": "incomplete"} for c in self._calls]

    def _close_cut_call(self) -> bytes:
        """The ends of the last call's events, where the text was cut inside of it."""
        self._note_cut_calls()
        last = self._calls[-1]
        return b"" if last["status"] == "completed" else self._close_call(len(self._calls) - 1, last)

    def _close_call(self, number: int, item: dict[str, Any]) -> bytes:
        arguments = {"arguments": item["arguments"], "name": item["name"], "item_id": item["id"]}
        return self._event("response.function_call_arguments.done", output_index=number, **arguments) + self._event(
            "response.output_item.done", output_index=number, item=item
        )

    def _open_message(self) -> bytes:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item = self._item("in_progress", [])
        return self._event("response.output_item.added", output_index=0, item=item) + self._part_event(
            "response.content_part.added", part=part
        )

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        given = {name: getattr(self.body, name) for name in REPEATED}
        is_over = bool(output)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.model_name,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "background": False,
            "truncation": "disabled",
            "metadata": {},
            "usage": self.usage() if is_over else None,
        } | {name: default if given[name] is None else given[name] for name, default in REPEATED.items()}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "message", "id": self._message_id, "status": status, "role": "assistant", "content": content}

    def _part(self, sample: Sample) -> dict[str, Any]:
        logprobs = self._logprobs(sample.logprobs)
        return {"type": "output_text", "text": sample.text, "annotations": [], "logprobs": logprobs}

    def _logprobs(self, logprobs: list[TokenLogprob]) -> list[dict[str, Any]]:
        if not self.work.shows_logprobs:
            return []
        return [
            self._token(t.token_id, t.logprob) | {"top_logprobs": [self._token(*one) for one in t.top]}
            for t in logprobs
        ]

    def _token(self, token_id: int, value: float) -> dict[str, Any]:
        return {"token": self.name_of(token_id), "logprob": logprob(value), "bytes": list(self.label.bytes(token_id))}

    def _deltas(self, index, prompt, first, text, logprobs, sample):
        if self.work.calls:
            if told := b"".join(self._piece_events(piece) for piece in self.pieces_of(sample, text)):
                yield {"told": told}
            return
        if text or (logprobs and self.work.shows_logprobs):
            yield {"delta": text, "logprobs": self._logprobs(logprobs)}

    def _silent(self, index: int) -> dict[str, Any]:
        return {"delta": "", "logprobs": []}

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._message_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return f"event: {kind}\ndata: ".encode() + as_json(body) + b"\n\n"
