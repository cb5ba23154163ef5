"""Guidance in the wire's own fields, before vLLM's server sees the request. Plain ASGI, named by `--middleware`.

`negative_prompt`, `negative_messages`, `guidance_scale` (or `cfg_scale`) and `guidance` at the top level, or in
`vllm_xargs`, become `vllm_xargs` with token ids. A chat's negative goes through the model's own template, by the
server's own `/tokenize`. Answers get the branches' tokens in their `usage`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from counterpoint.errors import GuideError, PromptError, UnsupportedError, UsageError
from counterpoint.vllm.arrival import UNGUIDED
from counterpoint.vllm.params import FIELDS, GUIDANCE, NEGATIVE, NEGATIVE_IDS, SCALE, guidance_fields, read
from counterpoint.vllm.usage import BranchUsage, counted

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

COMPLETIONS, CHAT, TOKENIZE = "/v1/completions", "/v1/chat/completions", "/tokenize"
NEGATIVE_MESSAGES = "negative_messages"
CFG_SCALE = "cfg_scale"  # another name of guidance_scale
WIRE_FIELDS = (*FIELDS, NEGATIVE_MESSAGES, CFG_SCALE)
# What decides how a chat is written out, besides its messages.
TEMPLATE_FIELDS = (
    "model",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "chat_template",
    "chat_template_kwargs",
    "tools",
)


class Refused(Exception):
    """An answer of the server's own to one of our questions, to be passed on."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True)
class Translated:
    """A request as vLLM gets it."""

    body: bytes
    usage: BranchUsage | None = None  # how to count what its branches take
    unguided_beam: bool = False


class GuidanceMiddleware:
    """`--middleware counterpoint.vllm.middleware.GuidanceMiddleware`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope.get("headers", ())}
        json_post = scope["type"] == "http" and scope["method"] == "POST"
        if not json_post or b"json" not in headers.get(b"content-type", b"json"):
            await self.app(scope, receive, send)
            return
        body = await _read_body(receive)
        try:
            asked = await self._translated(scope, body)
        except UsageError as error:
            await _answer(send, 400, _error(str(error)))
        except Refused as answer:
            await _answer(send, answer.status, answer.body)
        else:
            scope = _resized(_marked(scope) if asked.unguided_beam else scope, asked.body)
            await self.app(scope, _replay(asked.body, receive), counted(send, asked.usage) if asked.usage else send)

    async def _translated(self, scope: Message, body: bytes) -> Translated:
        """The request as it came where there is no guidance in it."""
        try:
            request = json.loads(body)
        except ValueError:
            return Translated(body)
        if not isinstance(request, dict):
            return Translated(body)
        args = request.get("vllm_xargs")
        args = dict(args) if isinstance(args, dict) else {}
        asked = {name: args.pop(name) for name in WIRE_FIELDS if name in args}
        for name in WIRE_FIELDS:
            if name in request:
                if name in asked:
                    raise GuideError(f"{name} is given twice, at the top level and in vllm_xargs; keep one")
                asked[name] = request.pop(name)
        asked = {name: value for name, value in asked.items() if value is not None}
        if not asked:
            return Translated(body, unguided_beam=bool(request.get("use_beam_search")))
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path not in (COMPLETIONS, CHAT):
            raise UnsupportedError(f"{path} can't be guided; use {COMPLETIONS} or {CHAT}")
        if request.get("use_beam_search"):
            raise UnsupportedError("beam search can't be guided in vLLM; leave use_beam_search out")
        contexts = _Contexts(self.app, scope, request, is_chat=path == CHAT)
        args |= await contexts.as_token_ids(asked)
        plan = read(args)
        if plan is None:
            return Translated(json.dumps(request | {"vllm_xargs": args}).encode())
        prompts = request.get("prompt")
        num_prompts = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
        branch_lens = [1 if context is None else len(context) for context in plan.contexts]
        usage = BranchUsage(num_prompts * sum(branch_lens), len(branch_lens))
        return Translated(json.dumps(request | {"vllm_xargs": args}).encode(), usage)


class _Contexts:
    """The texts and messages of one request, made into token ids by the server itself."""

    def __init__(self, app: App, scope: Message, request: dict[str, Any], *, is_chat: bool) -> None:
        self.app, self.scope, self.request, self.is_chat = app, scope, request, is_chat

    async def as_token_ids(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The fields for `vllm_xargs`, every context as ids."""
        args = dict(asked)
        if CFG_SCALE in args:
            if SCALE in args:
                raise GuideError(f"{SCALE} and {CFG_SCALE} are both given; keep one")
            args[SCALE] = args.pop(CFG_SCALE)
        if NEGATIVE_MESSAGES in args:
            if NEGATIVE in args or NEGATIVE_IDS in args:
                raise PromptError("negative_messages stands beside another negative; keep one")
            args[NEGATIVE_IDS] = await self._messages(args.pop(NEGATIVE_MESSAGES))
        if NEGATIVE in args:
            args[NEGATIVE_IDS] = await self._text(NEGATIVE, args.pop(NEGATIVE))
        if GUIDANCE in args:
            fields = guidance_fields(args[GUIDANCE])
            if isinstance(fields.get("branches"), list):
                fields["branches"] = [await self._branch(branch) for branch in fields["branches"]]
            args[GUIDANCE] = json.dumps(fields)
        return args

    async def _branch(self, branch: Any) -> Any:
        if not isinstance(branch, dict):
            return branch
        branch = {name: value for name, value in branch.items() if value is not None}
        if "messages" in branch:
            branch["prompt_ids"] = await self._messages(branch.pop("messages"))
        elif "prompt" in branch:
            branch["prompt_ids"] = await self._text("prompt of a branch", branch.pop("prompt"))
        return branch

    async def _text(self, name: str, text: Any) -> list[int]:
        if not isinstance(text, str) or not text:
            raise PromptError(f"{name} is {text!r}; use a text that is not empty")
        if self.is_chat:
            return await self._other_system(text)
        asked = {key: self.request[key] for key in ("model", "add_special_tokens") if key in self.request}
        return await self._tokens({"prompt": text, **asked})

    async def _other_system(self, text: str) -> list[int]:
        """The same conversation under another system message."""
        messages = self.request.get("messages")
        other = _with_system(messages, text)
        ids = await self._messages(other)
        if other != messages and ids == await self._messages(messages):
            raise PromptError(
                "the chat template shows no system message, so negative_prompt has no effect; use negative_messages"
            )
        return ids

    async def _messages(self, messages: Any) -> list[int]:
        if not self.is_chat:
            raise PromptError(f"{NEGATIVE_MESSAGES} belongs to {CHAT}; use {NEGATIVE} here")
        if not isinstance(messages, list) or not messages:
            raise PromptError(f"the negative's messages are {messages!r}; use a list of messages")
        asked = {name: self.request[name] for name in TEMPLATE_FIELDS if self.request.get(name) is not None}
        for name in ("documents", "reasoning_effort"):
            if self.request.get(name) is not None:
                asked["chat_template_kwargs"] = {name: self.request[name], **asked.get("chat_template_kwargs", {})}
        return await self._tokens({"messages": messages, **asked})

    async def _tokens(self, question: dict[str, Any]) -> list[int]:
        """What the server's own `/tokenize` says, with the headers of the request."""
        status, body = await _ask(self.app, self.scope, TOKENIZE, json.dumps(question).encode())
        if status != 200:
            raise Refused(status, body)
        answer = json.loads(body)
        ids, context_len = answer["tokens"], answer["max_model_len"]
        if not ids:
            raise PromptError("the negative has no tokens; use a longer one")
        if len(ids) >= context_len:
            raise PromptError(f"the negative has {len(ids)} tokens; the model's context has {context_len}; shorten it")
        return ids


def _with_system(messages: Any, text: str) -> list[Any]:
    """The same conversation under another system message."""
    if not isinstance(messages, list):
        raise PromptError("negative_prompt needs the request's messages, to swap the system message; give them")
    first = messages[0] if messages else None
    begins = isinstance(first, dict) and first.get("role") in ("system", "developer")
    system = {**first, "content": text} if begins else {"role": "system", "content": text}
    return [system, *(messages[1:] if begins else messages)]


async def _ask(app: App, scope: Message, path: str, body: bytes) -> tuple[int, bytes]:
    status, parts = 500, []

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    path = scope.get("root_path", "") + path
    asked = _resized({**scope, "path": path, "raw_path": path.encode(), "query_string": b""}, body)
    await app(asked, _replay(body, None), send)
    return status, b"".join(parts)


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive | None) -> Receive:
    """The body once more, then whatever the client does next, such as leaving."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        if receive is None:
            await asyncio.Event().wait()  # Nobody leaves; who listens for it is cancelled.
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


def _error(message: str) -> bytes:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    return json.dumps({"error": error}).encode()


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
