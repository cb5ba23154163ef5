"""Conversations as prompts, by the model's own template."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint import contexts
from counterpoint.contexts.messages import MARK
from counterpoint.errors import UsageError
from counterpoint.models.model import Model
from counterpoint.server.errors import ApiError, from_usage
from counterpoint.server.work import Served
from counterpoint.wire import Guidance, messages_from_wire, tool_names


def written(served: Served, body: Any, guidance: Guidance = Guidance()) -> tuple[Any, Guidance]:  # noqa: B008
    """A conversation as a prompt, and the guidance with its branches written by the same template.

    Raises:
        ApiError: the model has no template, or it refuses the conversation or a branch.
    """
    model = served.model
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise ApiError(
            400,
            f"the model {model.name} has no chat template, so it can't be chatted with; use /v1/completions",
            param="messages",
            code="no_chat_template",
        )
    try:
        names = tool_names(body.tools or ())
    except UsageError as error:
        raise from_usage(error, "tools") from error
    how: dict[str, Any] = {
        "continue_final": bool(body.continue_final_message),
        "template": template_options(model, body),
    }
    try:
        messages = messages_from_wire(body.messages)
        if not guidance.branches:
            prompt, branches = contexts.chat_prompt(model, messages, **how), ()
        else:
            built = contexts.chat(model, messages, branches=guidance.branches, **how)
            prompt, branches = built.prompt, built.branches
    except UsageError as error:
        raise blamed(error, guidance, "messages") from error
    if "tools" in how["template"]:
        _check_shown(model, messages, names, how)
    # What a template writes has its special tokens in it, so that the tokenizer adds none unless it is told to.
    prompt = prompt.text if body.add_special_tokens else prompt
    return prompt, dataclasses.replace(guidance, branches=tuple(branches))


def template_options(model: Model, body: Any) -> dict[str, Any]:
    """The further arguments of the model's template that a request gives.

    Raises:
        ApiError: one is not the template's but of the function that runs it, or it is unknown to the template.
    """
    given = dict(body.chat_template_kwargs or {})
    taken = [name for name in given if name in _taken_names(model)]
    if taken:
        raise ApiError(
            400,
            f"chat_template_kwargs has {', '.join(map(repr, taken))}, which is no variable of the template; leave it out",
            param=f"chat_template_kwargs.{taken[0]}",
            code="unsupported_parameter",
        )
    effort = getattr(body, "reasoning_effort", None)
    if effort is not None and "reasoning_effort" in str(model.tokenizer.chat_template):
        given["reasoning_effort"] = effort
    elif effort not in (None, "none", "medium"):  # none of it, and what OpenAI takes where nothing is said
        raise ApiError(
            400,
            f"reasoning_effort is {effort!r:.60} and the template of {model.name} does not know it; leave it out",
            param="reasoning_effort",
            code="unsupported_parameter",
        )
    if body.add_generation_prompt is not None:
        given["add_generation_prompt"] = body.add_generation_prompt
    if body.tools and getattr(body, "tool_choice", None) != "none":
        given["tools"] = body.tools
    return given


def _check_shown(model: Model, messages: Sequence[Any], names: Sequence[str], how: Mapping[str, Any]) -> None:
    """Raise where the template leaves out tools that the request offers: a name could stand in the text by chance, so
    the template is asked to write other ones."""
    tools = how["template"]["tools"]
    marks = [f"{MARK.replace(' ', '_')}{number}_" for number in range(len(tools))]
    marked = [{**tool, "function": {**tool["function"], "name": mark}} for tool, mark in zip(tools, marks)]
    try:
        text = contexts.chat_prompt(model, messages, **{**how, "template": {**how["template"], "tools": marked}}).text
    except UsageError:
        return  # a template that knows the names of tools
    lost = [name for name, mark in zip(names, marks) if mark not in text]
    if lost:
        raise ApiError(
            400,
            f"the chat template of {model.name} does not show the tool {lost[0]!r:.80}, so the model would not know of it; "
            "leave tools out, or describe them in a message",
            param="tools",
            code="unsupported_parameter",
        )


def _taken_names(model: Model) -> frozenset[str]:
    """Names that mean something to whatever runs a template, and so are no variables of one."""
    return frozenset(inspect.signature(model.tokenizer.apply_chat_template).parameters) | {"messages", "conversations"}


def blamed(error: UsageError, guidance: Guidance, param: str | None) -> ApiError:
    """The mistake with the field of the request that it is about."""
    made = from_usage(error, param)
    if made.param is not None and made.param.startswith("branches["):
        number = int(made.param.removeprefix("branches[").partition("]")[0])
        made.param = guidance.params[number] if number < len(guidance.params) else "guidance"
    return made
