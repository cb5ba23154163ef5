"""`/v1/responses` in its text form: its fields, made into those of a chat. No answer is kept."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from counterpoint.errors import UsageError
from counterpoint.server.errors import ApiError, from_usage, from_validation
from counterpoint.server.reading import read_chat
from counterpoint.server.schema import MAX_TOP, ChatBody, Most, Sampled, Text, Wire
from counterpoint.server.work import Served, Work
from counterpoint.wire import messages_from_wire

LOGPROBS = "message.output_text.logprobs"
OWN_FIELDS = (
    "input", "instructions", "max_output_tokens", "text", "reasoning", "include", "stream", "stream_options", "tools",
    "tool_choice", "top_logprobs",
)  # fmt: skip


#: fields of chats by the names that they have here
NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}
#: what answers can include by OpenAI's names; all but the first is of tools and thoughts, which no answer here has
INCLUDED = frozenset({
    LOGPROBS, "reasoning.encrypted_content", "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs", "file_search_call.results", "web_search_call.action.sources", "web_search_call.results",
})  # fmt: skip


class ResponseStreamOptions(Wire):
    include_usage: bool | None = Field(None, description="understood; the last event always has the usage")
    include_obfuscation: bool | None = Field(None, description="understood and without effect")


class ResponsesBody(Sampled):
    """`POST /v1/responses`."""

    input: Text | Annotated[list[dict[str, Any]], Field(min_length=1)] = Field(
        description="a text, or items: messages, function_call and function_call_output of a history"
    )
    instructions: str | None = Field(None, description="the system message, before those of the input")
    max_output_tokens: Most | None = None
    text: dict[str, Any] | None = Field(None, description="format: text")
    reasoning: dict[str, Any] | None = Field(None, description="effort, for a template that knows it")
    include: list[str] | None = Field(None, description=f"{LOGPROBS}: the log-probabilities of the output")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    tools: list[dict[str, Any]] | None = Field(None, description="functions; the template writes them into the prompt")
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    negative_messages: list[dict[str, Any]] | None = Field(None, description="a whole conversation to move away from")
    chat_template_kwargs: dict[str, Any] | None = None

    @field_validator("include")
    @classmethod
    def _known(cls, given: list[str] | None) -> list[str] | None:
        unknown = [name for name in given or () if name not in INCLUDED]
        if unknown:
            raise ValueError(f"{', '.join(map(repr, unknown[:20]))} is nothing that an answer has; known is {LOGPROBS}")
        return given


def read_response(served: Served, body: ResponsesBody) -> Work:
    """Raises ApiError: a field can't be, on this model or within these limits."""
    fields = {name: getattr(body, name) for name in body.model_fields_set if name not in OWN_FIELDS}
    fields["messages"] = _messages(body)
    if body.max_output_tokens is not None:
        fields["max_completion_tokens"] = body.max_output_tokens
    if LOGPROBS in (body.include or ()) or body.top_logprobs:
        fields |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    effort = (body.reasoning or {}).get("effort")
    if effort is not None:
        fields["reasoning_effort"] = effort
    fields |= _format(body.text or {})
    if body.tools:
        fields |= {"tools": [_tool(tool, number) for number, tool in enumerate(body.tools)]}
        if body.tool_choice is not None:
            fields["tool_choice"] = _choice(body.tool_choice)
    try:
        return read_chat(served, ChatBody.model_validate(fields))
    except ValidationError as error:
        raise _renamed(from_validation(error)) from None
    except ApiError as error:
        raise _renamed(error) from None


def _renamed(error: ApiError) -> ApiError:
    """The error in this endpoint's words."""
    for chats, own in NAMES.items():
        if error.param is not None and re.match(rf"{chats}\b", error.param):
            error.param = own + error.param.removeprefix(chats)
        error.message = re.sub(rf"^{chats}\b", own, error.message)
    return error


def _messages(body: ResponsesBody) -> list[dict[str, Any]]:
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        _add(messages, item, f"input[{number}]")
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    if not messages:
        raise ApiError(400, "input has no message; give one", param="input")
    return messages


def _add(messages: list[dict[str, Any]], item: dict[str, Any], param: str) -> None:
    """One item of the input as a message, or as a part of the one before."""
    kind = item.get("type", "message")
    if kind == "message":
        messages.append(_checked(item, param))
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        _checked({"role": "assistant", "content": None, "tool_calls": [call]}, param)
        if not messages or messages[-1].get("role") != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1] = messages[-1] | {"tool_calls": [*(messages[-1].get("tool_calls") or ()), call]}
    elif kind == "function_call_output":
        output = item.get("output")
        told = {"role": "tool", "tool_call_id": item.get("call_id"), "content": "" if output is None else output}
        messages.append(_checked(told, param))
    elif kind != "reasoning":  # how an answer came to be is no part of the conversation
        raise ApiError(
            400,
            f"{param} is a {kind!r:.60}; send messages, function_call and function_call_output",
            param=f"{param}.type",
            code="unsupported_parameter",
        )


def _checked(message: dict[str, Any], param: str) -> dict[str, Any]:
    """The message, where it is one. Raises with the item's name."""
    try:
        messages_from_wire([message], param=param)
    except UsageError as error:
        made = from_usage(error)
        made.param = (made.param or param).replace(f"{param}[0]", param, 1)
        made.message = made.message.replace(f"{param}[0]", param)
        raise made from None
    return message


def _format(text: dict[str, Any]) -> dict[str, Any]:
    unknown = [name for name in text if name not in ("format", "verbosity")]
    if unknown or text.get("verbosity") not in (None, "medium"):
        name = unknown[0] if unknown else "verbosity"
        raise ApiError(
            400, f"text.{name} is {text[name]!r:.60}; leave it out", param=f"text.{name}", code="unsupported_parameter"
        )
    given = text.get("format") or {"type": "text"}
    if not isinstance(given, dict):
        raise ApiError(400, f"text.format is {given!r:.60}; use an object with a type", param="text.format")
    if given.get("type") == "json_schema":
        given = {"type": "json_schema", "json_schema": {name: one for name, one in given.items() if name != "type"}}
    return {} if given == {"type": "text"} else {"response_format": given}


def _tool(tool: dict[str, Any], number: int) -> dict[str, Any]:
    """A function in the shape that chats have it in."""
    if tool.get("type", "function") != "function" or not isinstance(tool.get("name"), str):
        raise ApiError(
            400,
            f"tools[{number}] is {json.dumps(tool)[:60]}; only functions with a name can be called here",
            param=f"tools[{number}]",
            code="unsupported_parameter",
        )
    return {"type": "function", "function": {name: one for name, one in tool.items() if name != "type"}}


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and "function" not in choice:
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice
