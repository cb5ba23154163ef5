"""Chat pairs: one conversation, branches that differ in the system message only, through the model's own template."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.contexts.kinds import OtherModel, Rendered
from counterpoint.contexts.messages import MARK, Message, Render, folded, shown, split
from counterpoint.errors import GuideError, PromptError
from counterpoint.guide import Branch


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
) -> BranchedPrompt:
    """A conversation against the same one under another system message.

    The conversation is brought to its normal form (`contexts.messages`). The system message is swapped in the messages
    and the whole is rendered again, so the branches differ where the template shows a system message and nowhere else.
    Where a template refuses or drops one, it goes before the first user turn, in all branches alike.

    Args:
        model: a `Model`, or a tokenizer or processor of transformers, with a chat template.
        messages: the conversation; the system messages that begin it are one.
        negative: another system message as a text; `DEFAULT_SYSTEM` (which None means) or `NO_SYSTEM`; or a whole
            conversation.
        branches: several, with weights, instead of `negative`; the context of each is one of those, or a context of
            `counterpoint.contexts` such as `LastTokens`.
        continue_final: continue the last message instead of beginning a new turn.
        template: further arguments of the chat template, such as `tools` or `enable_thinking`.

    Raises:
        GuideError: both `negative` and `branches` are given.
        PromptError: there is no chat template, it refuses the conversation or leaves a message out, or a message is
            malformed.

    Source: system prompts strengthened at inference, arXiv 2601.06403 and arXiv 2502.12197.
    """
    if negative is not None and branches is not None:
        raise GuideError("both negative and branches are given; put the negative among the branches with its weight")
    if branches is None:
        branches = [Branch(DEFAULT_SYSTEM if negative is None else negative)]
    render = renderer(model, continue_final=continue_final, template=template)
    prompt, contexts = settled(render, messages, [_inner(branch.context) for branch in branches])
    written = [Rendered(render(context)) if is_conversation(context) else context for context in contexts]
    return BranchedPrompt(
        Rendered(render(prompt)),
        tuple(Branch(_within(branch.context, made), branch.weight) for branch, made in zip(branches, written)),
    )


def chat_prompt(
    model: Any,
    messages: Sequence[Message],
    *,
    continue_final: bool = False,
    template: Mapping[str, Any] | None = None,
) -> Rendered:
    """A conversation as a prompt without further branches; arguments and errors as of `chat`."""
    render = renderer(model, continue_final=continue_final, template=template)
    return Rendered(render(settled(render, messages)[0]))


def settled(
    render: Render, messages: Sequence[Message], contexts: Sequence[Any] = ()
) -> tuple[list[Message], list[Any]]:
    """The messages that the template gets: of the conversation, and of each context that is a system message (a text or a
    `System`) or a conversation. Other contexts stay as they are.

    Args:
        render: messages to the text that the template writes; raises PromptError where the template refuses them.

    Raises:
        PromptError: as of `chat`.
    """
    system, turns = split(render, messages)
    writer = _Writer(render, turns, "system" if system is None else system["role"])
    prompt = shown(render, writer.under(DEFAULT_SYSTEM if system is None else system["content"]))
    made = []
    for context in contexts:
        if isinstance(context, (str, System)):
            made.append(shown(render, writer.under(context)))
        elif is_conversation(context):
            made.append(settled(render, context)[0])
        else:
            made.append(context)
    return prompt, made


def is_conversation(context: Any) -> bool:
    """Whether a context is a list of messages."""
    return isinstance(context, (list, tuple)) and bool(context) and isinstance(context[0], Mapping)


def _inner(context: Any) -> Any:
    return context.context if isinstance(context, OtherModel) else context


def _within(context: Any, made: Any) -> Any:
    return dataclasses.replace(context, context=made) if isinstance(context, OtherModel) else made


class _Writer:
    """One conversation under any system message."""

    def __init__(self, render: Render, turns: Sequence[Message], role: str) -> None:
        self._render, self._turns, self._role = render, list(turns), role
        self._parts = self._around()

    def under(self, system: Any) -> list[Message]:
        """The messages under this system message: a text (or its parts), or a `System`."""
        if system is System.DEFAULT or (system is System.NONE and not self._has_default()):
            return self._turns
        content = "" if system is System.NONE else system
        if self._parts is not None:
            return [{"role": self._role, "content": content}, *self._turns]
        return folded(self._turns, content) if content else self._turns

    def _around(self) -> tuple[str, str] | None:
        """What the template writes before and after a system message; None where it shows none."""
        for content in (MARK, [{"type": "text", "text": MARK}]):
            try:
                text = self._render([{"role": self._role, "content": content}, *self._turns])
            except PromptError:
                continue
            before, mark, after = text.partition(MARK)
            if mark:
                return before, after
        return None

    def _has_default(self) -> bool:
        if self._parts is None or not self._turns:
            return self._parts is not None
        before, after = self._parts
        text = self._render(self._turns)
        inner = text[len(before) : len(text) - len(after)]
        return text.startswith(before) and text.endswith(after) and bool(inner.strip())


def renderer(model: Any, *, continue_final: bool = False, template: Mapping[str, Any] | None = None) -> Render:
    """Messages to the text that a model's chat template writes.

    Args:
        model: a `Model`, or a tokenizer or processor of transformers.
        continue_final, template: as of `chat`.

    Raises:
        PromptError: there is no chat template; from the function, that the template refuses the messages.
    """
    tokenizer = getattr(model, "tokenizer", model)
    if getattr(tokenizer, "chat_template", None) is None:
        raise PromptError("the model has no chat template; give its prompt as a text, or take a chat model")
    from jinja2.exceptions import TemplateError

    options = {"add_generation_prompt": not continue_final, "continue_final_message": continue_final}
    options |= dict(template or {})
    written: dict[str, str] = {}  # a conversation is looked at more than once before it is read

    def render(messages: Sequence[Message]) -> str:
        key = json.dumps(list(messages), default=str)
        if key not in written:
            try:
                written[key] = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
            except (
                TemplateError,
                ValueError,
                TypeError,
                LookupError,
                AttributeError,
                ArithmeticError,
                RuntimeError,
            ) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise PromptError(f"the chat template refuses the conversation: {reason}", param="messages") from None
        return written[key]

    return render
