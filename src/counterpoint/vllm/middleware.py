"""Guidance in the wire's own fields, before vLLM's server sees the request. Plain ASGI, named by `--middleware`.

The fields of `counterpoint.wire`, at the top level or in `vllm_xargs`, become `vllm_xargs` with token ids. What they say
is made into ids when the server asks for the request's body, so after it has looked at the client's key. Answers get the
branches' tokens in their `usage`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from counterpoint.errors import GuideError, PromptError, UnsupportedError, UsageError
from counterpoint.vllm.arrival import UNGUIDED
from counterpoint.vllm.rendering import Refused, Rendering
from counterpoint.vllm.translation import ARGUMENTS, CHAT, COMPLETIONS, Translated, num_prompts, translated
from counterpoint.vllm.usage import counted
from counterpoint.wire import GUIDANCE_FIELDS, LISTED, Guidance, is_neutral, read_guidance_each

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

TOO_DEEP = "the request is nested too deeply; send a flatter one"


class GuidanceMiddleware:
    """`--middleware counterpoint.vllm.middleware.GuidanceMiddleware`."""

    def __init__(self, app: App, rendering: Callable[[Any, dict[str, Any]], Any] = Rendering) -> None:
        self.app, self.rendering = app, rendering

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope.get("headers", ())}
        json_post = scope["type"] == "http" and scope["method"] == "POST"
        if not json_post or b"json" not in headers.get(b"content-type", b"json").lower():
            await self.app(scope, receive, send)
            return
        body = await _read_body(receive)
        try:
            request, fields = _parted(body)
            asked = _asked(scope, request, fields)
            if asked is None and fields:
                body = json.dumps(request).encode()
        except UsageError as error:
            await _answer(send, 400, str(error), getattr(error, "param", None))
            return
        except RecursionError:
            await _answer(send, 400, TOO_DEEP)
            return
        if asked is None:
            if request.get("use_beam_search"):
                scope = _marked(scope)
            await self.app(_resized(scope, body), _replay(body, receive), send)
            return
        await _Guided(self, scope, receive, send).run(request, asked)


class _Guided:
    """One guided request on its way to the server and back."""

    def __init__(self, middleware: GuidanceMiddleware, scope: Message, receive: Receive, send: Send) -> None:
        self._app, self._rendering = middleware.app, middleware.rendering
        self._scope, self._receive, self._send = scope, receive, send
        self._refusal: tuple[int, str, str | None] | None = None

    async def run(self, request: dict[str, Any], asked: Guidance) -> None:
        """Serve it, or answer why not."""
        try:
            await self._app(self._scope, self._reading(request, asked), self._passed)
        except _Stopped:
            pass
        if self._refusal is not None:
            await _answer(self._send, *self._refusal)

    def _reading(self, request: dict[str, Any], asked: Guidance) -> Receive:
        """The request as vLLM gets it, once it asks for it; then whatever the client does next, such as leaving."""
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                return await self._receive()
            sent = True
            made = await self._translated(request, asked)
            if made.usage is not None:
                self._send = counted(self._send, made.usage)
            return {"type": "http.request", "body": made.body, "more_body": False}

        return receive

    async def _translated(self, request: dict[str, Any], asked: Guidance) -> Translated:
        try:
            rendering = self._rendering(self._scope.get("app"), request)
            return await translated(rendering, request, asked, is_chat=_path(self._scope) == CHAT)
        except UsageError as error:
            self._refusal = (400, str(error), getattr(error, "param", None))
        except RecursionError:
            self._refusal = (400, TOO_DEEP, None)
        except Refused as refusal:
            self._refusal = (refusal.status, f"a branch can't be read: {refusal.message}", None)
        raise _Stopped

    async def _passed(self, message: Message) -> None:
        """The answer; the server's own to a request that it did not get is dropped."""
        if self._refusal is None:
            await self._send(message)


class _Stopped(Exception):
    """The request does not reach the server."""


def _parted(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request without our fields, and these; two empty ones where the body is no object, which is vLLM's to refuse.

    Raises:
        GuideError: a field is given twice.
    """
    try:
        request = json.loads(body)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        return {}, {}
    fields = {name: request.pop(name) for name in GUIDANCE_FIELDS if name in request}
    args = request.get(ARGUMENTS)
    inner = [name for name in GUIDANCE_FIELDS if isinstance(args, dict) and name in args]
    for name in inner:
        if not is_neutral(name, fields.get(name)) and not is_neutral(name, args[name]):
            raise GuideError(f"{name} is given twice, at the top level and in {ARGUMENTS}; keep one", param=name)
        if is_neutral(name, fields.get(name)):
            fields[name] = args[name]
    if inner:
        request[ARGUMENTS] = {name: value for name, value in args.items() if name not in inner}
    return request, fields


def _asked(scope: Message, request: dict[str, Any], fields: dict[str, Any]) -> Guidance | None:
    """What our fields ask for; None for no guidance.

    Raises:
        UsageError: a field has no meaning, or the request can't be guided.
    """
    path = _path(scope)
    each = read_guidance_each(fields, num_prompts(request) if path == COMPLETIONS else 1, is_chat=path != COMPLETIONS)
    if any(one != each[0] for one in each):
        raise UnsupportedError(
            "the prompts have different negatives, and vLLM takes one for all; send a request for each",
            param=next(name for name in LISTED if name in fields),
        )
    asked = each[0]
    if asked.guide is None:
        return None
    if path not in (COMPLETIONS, CHAT):
        raise UnsupportedError(f"{path} can't be guided; use {COMPLETIONS} or {CHAT}")
    if request.get("use_beam_search"):
        raise UnsupportedError("beam search can't be guided in vLLM; leave use_beam_search out")
    args = request.get(ARGUMENTS)
    if args is not None and not isinstance(args, dict):
        raise PromptError(f"{ARGUMENTS} is {args!r:.60}; use an object, or leave it out", param=ARGUMENTS)
    return asked


def _path(scope: Message) -> str:
    return scope["path"].removeprefix(scope.get("root_path", ""))


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever the client does next, such as leaving."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _marked(scope: Message) -> Message:
    """The same under an id that says that no guidance is asked for, which a beam search's steps would not tell."""
    given = [value for name, value in scope["headers"] if name.lower() == b"x-request-id"]
    others = [(name, value) for name, value in scope["headers"] if name.lower() != b"x-request-id"]
    name = UNGUIDED.encode() + (given[0] if given else uuid4().hex.encode())
    return {**scope, "headers": [*others, (b"x-request-id", name)]}


def _resized(scope: Message, body: bytes) -> Message:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


async def _answer(send: Send, status: int, message: str, param: str | None = None) -> None:
    kind = "BadRequestError" if status == 400 else "NotFoundError" if status == 404 else "Error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": param, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
