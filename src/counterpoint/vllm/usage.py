"""The branches' tokens in the `usage` of an answer, streamed or whole.

`prompt_tokens` and `completion_tokens` stay those of the request itself; `branch_tokens` is what its branches read and
were given beside it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BranchUsage:
    """What a request's branches take: `prompt_tokens` once, then `branches` for every generated token."""

    prompt_tokens: int
    branches: int

    def add_to(self, answer: Any) -> bool:
        """Write `branch_tokens` into the answer's usage; whether it has one."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if not isinstance(usage, dict):
            return False
        usage["branch_tokens"] = self.prompt_tokens + self.branches * (usage.get("completion_tokens") or 0)
        return True

    def in_event(self, event: bytes) -> bytes:
        """The same for one server-sent event."""
        data = event.removeprefix(b"data: ")
        if data == event or b'"usage"' not in data:
            return event
        try:
            answer = json.loads(data)
        except ValueError:
            return event
        return b"data: " + json.dumps(answer).encode() if self.add_to(answer) else event

    def in_whole(self, body: bytes) -> bytes:
        """The same for a whole answer."""
        try:
            answer = json.loads(body)
        except ValueError:
            return body
        return json.dumps(answer).encode() if self.add_to(answer) else body


def counted(send: Send, usage: BranchUsage) -> Send:
    """`send` that puts the branches' tokens into what passes."""
    start: Message = {}
    pending = bytearray()

    async def whole(message: Message) -> None:
        pending.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        body = usage.in_whole(bytes(pending))
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({**message, "body": body})

    async def streamed(message: Message) -> None:
        pending.extend(message.get("body", b""))
        events, separator, rest = bytes(pending).rpartition(b"\n\n")
        last = not message.get("more_body")
        pending[:] = b"" if last else rest
        done = b"\n\n".join(map(usage.in_event, events.split(b"\n\n"))) + separator + (rest if last else b"")
        if done or last:
            await send({**message, "body": done})

    async def passed(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            if _streams(start):
                await send(message)
        elif message["type"] == "http.response.body":
            await (streamed if _streams(start) else whole)(message)
        else:
            await send(message)

    return passed


def _streams(start: Message) -> bool:
    return any(name.lower() == b"content-type" and b"event-stream" in value for name, value in start["headers"])
