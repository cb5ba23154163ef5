"""The normal form of a conversation: what every builder and server makes of messages before a template writes them.

1. `developer` is `system`, unless the template names it.
2. The system messages that begin a conversation are one; another system message replaces all of it.
3. Every message's text is found in what the template wrote, or the conversation is refused.

A template is known here by what it writes: a function from messages to a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from counterpoint.errors import PromptError

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message]], str]

SYSTEM_ROLES = ("system", "developer")
JOINT = "\n\n"
MARK = "counterpoint marks message "
_NOBODY = "nobody"  # a role that no template knows
_END_OF_THOUGHT = "</think>"


def checked(messages: Any) -> list[Message]:
    """The messages, where they are a list of objects with a role.

    Raises:
        PromptError: they are not.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise PromptError(
            f"messages is {str(messages)[:60]!r}; give a list of objects with role and content", param="messages"
        )
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(
                f"a message is {str(message)[:60]!r}; give an object with role and content", param="messages"
            )
    return list(messages)


def split(render: Render, messages: Any) -> tuple[Message | None, list[Message]]:
    """The one system message (None where there is none) and the turns after it, of a conversation in normal form.

    Raises:
        PromptError: a message is malformed.
    """
    messages = checked(messages)
    if any(message["role"] == "developer" for message in messages) and not _names_developer(render):
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    num = next((i for i, message in enumerate(messages) if message["role"] not in SYSTEM_ROLES), len(messages))
    if num == 0:
        return None, messages
    content = _joined([message.get("content") or "" for message in messages[:num]])
    return {"role": messages[0]["role"], "content": content}, messages[num:]


def folded(turns: Sequence[Message], system: Any) -> list[Message]:
    """The turns with the system text before that of the first user turn.

    Raises:
        PromptError: there is no user turn.
    """
    at = next((i for i, message in enumerate(turns) if message["role"] == "user"), None)
    if at is None:
        raise PromptError(
            "the chat template shows no system message and there is no user turn to put it into; add one",
            param="messages",
        )
    return [*turns[:at], {**turns[at], "content": _joined([system, turns[at].get("content") or ""])}, *turns[at + 1 :]]


def shown(render: Render, messages: Sequence[Message]) -> list[Message]:
    """The messages in the form in which the template shows the text of each: contents as texts, or as lists of parts.

    Raises:
        PromptError: the template refuses them, or leaves one out.
    """
    lost = _lost(render, messages)
    if lost is None:
        return list(messages)
    as_parts = [{**m, "content": _parts(m["content"])} if isinstance(m.get("content"), str) else m for m in messages]
    try:
        if _lost(render, as_parts) is None:
            return as_parts
    except PromptError:
        pass  # the template takes texts only
    raise PromptError(
        f"the chat template leaves out {lost}; put it into a turn that the template shows", param="messages"
    )


def _lost(render: Render, messages: Sequence[Message]) -> str | None:
    """What the template does not write, in words."""
    text = render(messages)
    for message in messages:
        for piece in _texts(message):
            if not _is_found(piece, text, message["role"]):
                return f"{piece.strip()[:40]!r} of a {message['role']} message"
    try:
        marked = render([_marked(message, number) for number, message in enumerate(messages)])
    except PromptError:
        return None  # a template that reads into its messages: what was found has to do
    for number, message in enumerate(messages):
        if any(_contents(message)) and f"{MARK}{number}." not in marked:
            return f"a {message['role']} message, {next(filter(None, _contents(message)))[:40]!r}"
    return None


def _is_found(piece: str, text: str, role: str) -> bool:
    piece = piece.strip()
    if piece in text or json.dumps(piece, ensure_ascii=False)[1:-1] in text or json.dumps(piece)[1:-1] in text:
        return True
    # Templates of reasoning models leave earlier thoughts out on purpose.
    return role == "assistant" and _END_OF_THOUGHT in piece and piece.rpartition(_END_OF_THOUGHT)[2].strip() in text


def _texts(message: Message) -> Iterator[str]:
    """All texts of a message: its content, and the names and arguments of tools that it calls."""
    yield from _contents(message)
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        yield from _leaves(function.get("name"))
        yield from _leaves(function.get("arguments"))


def _contents(message: Message) -> Iterator[str]:
    content = message.get("content")
    for part in [content] if isinstance(content, str) else content or ():
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str):
            yield text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)


def _marked(message: Message, number: int) -> Message:
    """The message with a mark for its text. A short text could be found by chance, a mark can't."""
    content, mark = message.get("content"), f"{MARK}{number}."
    if isinstance(content, str):
        return {**message, "content": mark} if content else message
    if not content:
        return message
    parts = [{**part, "text": mark} if isinstance(part, Mapping) and part.get("text") else part for part in content]
    return {**message, "content": parts}


def _names_developer(render: Render) -> bool:
    """Whether the template writes this role otherwise than one that it can't know."""

    def written(role: str) -> str | None:
        try:
            text = render([{"role": role, "content": MARK}, {"role": "user", "content": MARK}])
        except PromptError:
            return None
        return text.replace(role, "")

    known = written("developer")
    return known is not None and known.count(MARK) == 2 and known != (written(_NOBODY) or "")


def _joined(contents: Sequence[Any]) -> Any:
    """Contents as one: a text where all are texts, a list of parts otherwise."""
    contents = [content for content in contents if content]
    if all(isinstance(content, str) for content in contents):
        return JOINT.join(contents)
    parts: list[Any] = []
    for number, content in enumerate(contents):
        end = JOINT if number + 1 < len(contents) else ""
        parts += _parts(content + end) if isinstance(content, str) else [*content, *(_parts(end) if end else [])]
    return parts


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
