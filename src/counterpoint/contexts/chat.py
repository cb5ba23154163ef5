"""Chat pairs: one conversation, branches that differ in the system message only, through the model's own template."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from counterpoint.contexts.built import Built
from counterpoint.contexts.kinds import OtherModel, Rendered
from counterpoint.errors import GuideError, PromptError
from counterpoint.guide import Branch

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message]], str]

SYSTEM_ROLES = ("system", "developer")
FOLD_JOINT = "\n\n"
_MARK = "counterpoint marks the system message"


class System(enum.Enum):
    """System messages that are not a text.

    DEFAULT: what the template writes where a conversation has none: its own default, or nothing.
    NONE: no system text; an empty system message where the template would write a default of its own.
    """

    DEFAULT = "default"
    NONE = "none"


DEFAULT_SYSTEM, NO_SYSTEM = System.DEFAULT, System.NONE


def chat(
    model: Any,
    messages: Sequence[Message],
    *,
    negative: str | System | Sequence[Message] | None = None,
    branches: Sequence[Branch] | None = None,
    continue_final: bool = False,
    template: Mapping[str, Any] | None = None,
) -> Built:
    """A conversation against the same one under another system message.

    The system message is swapped in the messages and the whole is rendered again, so the branches differ where the
    template shows a system message and nowhere else. Where a template refuses or drops one, it goes before the first
    user turn, in all branches alike.

    Args:
        model: a `Model`, or a tokenizer or processor of transformers, with a chat template.
        messages: the conversation; its first message may be the system message.
        negative: another system message as a text; `DEFAULT_SYSTEM` (which None means) or `NO_SYSTEM`; or a whole
            conversation.
        branches: several, with weights, instead of `negative`; the context of each is one of those, or a context of
            `counterpoint.contexts` such as `LastTokens`.
        continue_final: continue the last message instead of beginning a new turn.
        template: further arguments of the chat template, such as `tools` or `enable_thinking`.

    Raises:
        GuideError: both `negative` and `branches` are given.
        PromptError: there is no chat template, it refuses the conversation, or a message is malformed.

    Source: system prompts strengthened at inference, arXiv 2601.06403 and arXiv 2502.12197.
    """
    if negative is not None and branches is not None:
        raise GuideError("both negative and branches are given; put the negative among the branches with its weight")
    if branches is None:
        branches = [Branch(DEFAULT_SYSTEM if negative is None else negative)]
    render = _renderer(getattr(model, "tokenizer", model), continue_final, dict(template or {}))
    messages = _checked(messages)
    system, turns = _split(messages)
    writer = _Writer(render, turns, messages[0]["role"] if system is not None else "system")
    return Built(
        Rendered(writer.write(DEFAULT_SYSTEM if system is None else system)),
        tuple(Branch(_branch(render, writer, branch.context), branch.weight) for branch in branches),
    )


def _branch(render: Render, writer: _Writer, context: Any) -> Any:
    if isinstance(context, (str, System)):
        return Rendered(writer.write(context))
    if isinstance(context, (list, tuple)) and context and isinstance(context[0], Mapping):
        system, turns = _split(_checked(context))
        other = _Writer(render, turns, context[0]["role"] if system is not None else "system")
        return Rendered(other.write(DEFAULT_SYSTEM if system is None else system))
    if isinstance(context, OtherModel):
        return dataclasses.replace(context, context=_branch(render, writer, context.context))
    return context


class _Writer:
    """One conversation under any system message."""

    def __init__(self, render: Render, turns: Sequence[Message], role: str) -> None:
        self._render, self._turns, self._role = render, turns, role
        self._parts = self._around()

    def write(self, system: Any) -> str:
        """The text under this system message: a text (or its parts), or a `System`."""
        if system is System.DEFAULT or (system is System.NONE and not self._has_default()):
            return self._render(self._turns)
        content = "" if system is System.NONE else system
        if self._parts is not None:
            return self._render([{"role": self._role, "content": content}, *self._turns])
        return self._render(_folded(self._turns, content)) if content else self._render(self._turns)

    def _around(self) -> tuple[str, str] | None:
        """What the template writes before and after a system message; None where it shows none."""
        try:
            text = self._render([{"role": self._role, "content": _MARK}, *self._turns])
        except PromptError:
            return None
        before, mark, after = text.partition(_MARK)
        return (before, after) if mark else None

    def _has_default(self) -> bool:
        if self._parts is None:
            return False
        before, after = self._parts
        text = self._render(self._turns)
        inner = text[len(before) : len(text) - len(after)]
        return text.startswith(before) and text.endswith(after) and bool(inner.strip())


def _renderer(tokenizer: Any, continue_final: bool, options: dict[str, Any]) -> Render:
    if getattr(tokenizer, "chat_template", None) is None:
        raise PromptError("the model has no chat template; give its prompt as a text, or set tokenizer.chat_template")
    from jinja2.exceptions import TemplateError

    def render(messages: Sequence[Message]) -> str:
        try:
            return tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=not continue_final,
                continue_final_message=continue_final,
                **options,
            )
        except (TemplateError, ValueError, TypeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PromptError(f"the chat template refuses the conversation: {reason}") from None

    return render


def _checked(messages: Any) -> list[Message]:
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise PromptError(f"messages is {str(messages)[:60]!r}; give a list of objects with role and content")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f"a message is {str(message)[:60]!r}; give an object with role and content")
    return list(messages)


def _split(messages: list[Message]) -> tuple[Any, list[Message]]:
    """The content of the system message (None where there is none) and the turns after it."""
    if messages[0]["role"] not in SYSTEM_ROLES:
        return None, messages
    if len(messages) == 1:
        raise PromptError("the conversation has a system message only; add a user turn")
    return messages[0].get("content") or "", messages[1:]


def _folded(turns: Sequence[Message], system: Any) -> list[Message]:
    """The turns with the system message before the text of the first user turn."""
    at = next((i for i, message in enumerate(turns) if message["role"] == "user"), None)
    if at is None:
        raise PromptError("the chat template shows no system message and there is no user turn to put it into; add one")
    content = turns[at].get("content")
    if isinstance(system, str) and isinstance(content, str):
        joined: Any = system + FOLD_JOINT + content
    else:
        joined = [*_as_parts(system, FOLD_JOINT), *_as_parts(content, "")]
    return [*turns[:at], {**turns[at], "content": joined}, *turns[at + 1 :]]


def _as_parts(content: Any, end: str) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content + end}]
    return [*(content or []), *([{"type": "text", "text": end}] if end else [])]
