"""Messages of a conversation, from the wire to what templates take.

Clients send back the answers that servers gave them, with all that stood in them. What an answer has beside its text is
ignored; what would be lost, an image or a voice, is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.errors import FieldError, PromptError, UnknownFieldError

ROLES = ("system", "developer", "user", "assistant", "tool")
#: what answers of servers and libraries hold beside their text
OF_ANSWERS = frozenset({
    "id", "object", "type", "status", "phase", "index", "annotations", "parsed", "logprobs", "finish_reason", "stop_reason",
    "cache_control", "provider_specific_fields", "reasoning_details", "thinking_blocks", "metadata", "created_at",
    "timestamp", "model", "usage", "citations", "token_ids", "encrypted_content", "signature", "weight",
})  # fmt: skip
#: kinds of parts whose text is the message's
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
#: kinds of parts that say how an answer came to be
THOUGHT_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text"})
#: what a message may hold beside its text and this server can't read
LOST = frozenset({"audio", "images", "image", "files", "attachments", "videos"})
KINDS = {
    "image": "an image", "image_url": "an image", "input_image": "an image", "video_url": "a video",
    "audio": "a sound", "input_audio": "a sound", "audio_url": "a sound", "file": "a file", "input_file": "a file",
}  # fmt: skip


def messages_from_wire(value: Any, *, param: str = "messages") -> list[dict[str, Any]]:
    """Messages as chat templates take them: role, content as one text, and where they are given name, tool calls (their
    arguments as objects), the id of the call that a tool answers, and the thoughts of a reasoning model.

    Args:
        param: what the errors call the list.

    Raises:
        PromptError, FieldError: it is no list of messages, or one has an unknown field or something that would be lost.
    """
    if not isinstance(value, list | tuple) or not value:
        raise PromptError(f"{param} is {value!r:.60}; use a list of messages with role and content", param=param)
    messages = [_message(one, f"{param}[{number}]") for number, one in enumerate(value)]
    names = {call["id"]: call["function"]["name"] for m in messages for call in m.get("tool_calls", ())}
    for message in messages:
        if message["role"] == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message["name"] = names[message["tool_call_id"]]
    return messages


def _message(given: Any, param: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise PromptError(f"{param} is {given!r:.60}; use an object with role and content", param=param)
    fields = {name: one for name, one in given.items() if one is not None and name not in OF_ANSWERS}
    if "role" not in fields:
        raise PromptError(f"{param} has no role; give one of {', '.join(ROLES)}", param=f"{param}.role")
    role = fields.pop("role")
    role = "tool" if role == "function" else role
    if role not in ROLES:
        raise PromptError(f"{param}.role is {role!r:.60}; use one of {', '.join(ROLES)}", param=f"{param}.role")
    calls = _calls(fields.pop("tool_calls", None), fields.pop("function_call", None), param)
    thoughts = [fields.pop(name, None) for name in ("reasoning_content", "reasoning", "thinking")]
    text = _content(fields.pop("content", None), f"{param}.content")
    refusal = fields.pop("refusal", None)
    if text is None and isinstance(refusal, str):
        text = refusal  # an answer that was a refusal has its text here
    if text is None:
        if role != "assistant":
            raise PromptError(f"{param}.content is missing or null; give a text", param=f"{param}.content")
        text = ""
    message: dict[str, Any] = {"role": role, "content": text}
    for name in ("name", "tool_call_id"):
        one = fields.pop(name, None)
        if one is not None and not isinstance(one, str):
            raise PromptError(f"{param}.{name} is {one!r:.60}; use a text", param=f"{param}.{name}")
        if one:
            message[name] = one
    if calls:
        if role != "assistant":
            raise PromptError(
                f"{param} has tool_calls and is no assistant's; leave them out", param=f"{param}.tool_calls"
            )
        message["tool_calls"] = calls
    thought = next((one for one in thoughts if isinstance(one, str) and one), None)
    if role == "assistant" and thought is not None:
        message["reasoning_content"] = thought
    _refuse_rest(fields, param)
    return message


def _refuse_rest(fields: Mapping[str, Any], param: str) -> None:
    """Raise for what would be lost, and for what nobody knows. A field that is empty says nothing."""
    asking = [name for name, one in fields.items() if not _is_empty(one)]
    lost = [name for name in asking if name in LOST]
    if lost:
        raise FieldError(
            f"{param}.{lost[0]} can't be read by this model and would be lost; send text", param=f"{param}.{lost[0]}"
        )
    _refuse_unknown(asking, param)


def _refuse_unknown(names: Sequence[str], param: str) -> None:
    if names:
        raise UnknownFieldError(
            f"unknown field {', '.join(repr(f'{param}.{name}') for name in names)}; leave it out",
            param=f"{param}.{names[0]}",
        )


def _is_empty(value: Any) -> bool:
    """Whether a field that is not read says nothing at this value."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _content(content: Any, param: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise PromptError(f"{param} is {content!r:.60}; use a text or a list of parts", param=param)
    texts = [_part(part, f"{param}[{number}]") for number, part in enumerate(content)]
    return "\n".join(text for text in texts if text is not None)


def _part(part: Any, param: str) -> str | None:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind is None and isinstance(part.get("text"), str):
        kind = "text"
    if kind in THOUGHT_PARTS:
        return None
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        what = KINDS.get(kind) if isinstance(kind, str) else None
        said = f"{what} ({kind}), which this server can't read" if what else f"{part!r:.60}"
        raise FieldError(f'{param} is {said}; send {{"type": "text", "text": TEXT}}', param=param)
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise PromptError(
            f"{param}.{TEXT_PARTS[kind]} is {text!r:.60}; use a text", param=f"{param}.{TEXT_PARTS[kind]}"
        )
    known = {"type", TEXT_PARTS[kind], *OF_ANSWERS}
    _refuse_unknown([name for name, one in part.items() if name not in known and not _is_empty(one)], param)
    return text


def _calls(calls: Any, function_call: Any, param: str) -> list[dict[str, Any]]:
    if function_call:
        calls = [*(calls or ()), {"id": "", "type": "function", "function": function_call}]
    if not calls:
        return []
    if not isinstance(calls, list | tuple):
        raise PromptError(f"{param}.tool_calls is {calls!r:.60}; use a list", param=f"{param}.tool_calls")
    return [_call(call, f"{param}.tool_calls[{number}]") for number, call in enumerate(calls)]


def _call(call: Any, param: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise PromptError(
            f'{param} is {call!r:.60}; use {{"id": ID, "type": "function", "function": {{"name": NAME, "arguments": JSON}}}}',
            param=param,
        )
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments or "{}")
        except ValueError:
            read = arguments
        # Templates write an object's fields; what is no object stays as the model wrote it.
        arguments = read if isinstance(read, dict) else arguments
    elif arguments is None:
        arguments = {}
    elif not isinstance(arguments, Mapping):
        raise PromptError(
            f"{param}.function.arguments is {arguments!r:.60}; use JSON", param=f"{param}.function.arguments"
        )
    call_id = call.get("id")
    return {
        "id": call_id if isinstance(call_id, str) else "",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
