"""The endpoints that generate: how their requests are read, and the shape of their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from counterpoint.server.answers import Answer
from counterpoint.server.chat import ChatAnswer
from counterpoint.server.completions import CompletionAnswer
from counterpoint.server.reading import read_chat, read_completion
from counterpoint.server.response_events import ResponseAnswer
from counterpoint.server.responses import ResponsesBody, read_response
from counterpoint.server.schema import ChatBody, CompletionBody, Sampled
from counterpoint.server.work import Served, Work

B = TypeVar("B", bound=Sampled)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[B]):
    """A family of requests that generate.

    Args:
        body: the schema of its requests.
        read: a request to the engine's work.
        answer: the shape of its answers.
    """

    body: type[B]
    read: Callable[[Served, B], Work]
    answer: type[Answer]


COMPLETIONS = Endpoint(CompletionBody, read_completion, CompletionAnswer)
CHAT = Endpoint(ChatBody, read_chat, ChatAnswer)
RESPONSES = Endpoint(ResponsesBody, read_response, ResponseAnswer)
ENDPOINTS: dict[str, Endpoint] = {
    "/v1/completions": COMPLETIONS, "/v1/chat/completions": CHAT, "/v1/responses": RESPONSES,
}  # fmt: skip
