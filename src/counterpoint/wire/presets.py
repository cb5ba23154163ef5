"""A preset's name in a request, made into the fields that it stands for. What the request says itself wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from counterpoint.contexts import System
from counterpoint.errors import FieldError
from counterpoint.presets import find_preset
from counterpoint.wire.guidance import NEGATIVES, SCALES
from counterpoint.wire.neutral import is_neutral

FIELD = "preset"
_BRANCHES = ("last_tokens", "empty", "suffix", "without")


def with_preset(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request with those of its preset among them; as they are where it names none.

    Raises:
        UsageError: there is no such preset, or it is for a chat and the request is none.
    """
    given = dict(fields)
    name = given.pop(FIELD, None)
    if name is None:
        return given
    if not isinstance(name, str):
        raise FieldError(f"preset is {name!r:.60}; use the name of a preset", param=FIELD)
    preset = find_preset(name)
    # What asks for nothing does not stand in the preset's way.
    given = {field: value for field, value in given.items() if value is not None and not is_neutral(field, value)}
    is_chat = "messages" in given or "input" in given
    for option, value in preset.sampling.items():
        if option == "max_tokens" and "input" in given:
            option = "max_output_tokens"
        if option != "max_tokens" or "max_completion_tokens" not in given:
            given.setdefault(option, value)
    guidance = given.get("guidance")
    if guidance is not None and not isinstance(guidance, Mapping):
        raise FieldError(
            "preset goes with guidance as an object only; write the object, or leave the preset out", param=FIELD
        )
    guide = dict(preset.guide or {})
    if any(scale in given for scale in SCALES):
        guide.pop("scale", None)
    own = dict(guidance or {})
    if not (any(negative in given for negative in NEGATIVES) or own.get("branches")):
        _add_contexts(given, guide, preset.contexts, is_chat, preset.name)
    merged = {**guide, **own}
    if merged:
        given["guidance"] = merged
    return given


def _add_contexts(
    given: dict[str, Any], guide: dict[str, Any], contexts: Mapping[str, Any], is_chat: bool, name: str
) -> None:
    for_chat = [key for key in ("chat", "system", "negative_system") if contexts.get(key)]
    if for_chat and not is_chat:
        raise FieldError(f"the preset {name!r} has {for_chat[0]}, which is for chats; send messages", param=FIELD)
    branches = [dict(branch) for branch in contexts.get("branches", ())]
    if "system" in contexts:
        _add_system(given, contexts["system"])
    negative = contexts.get("negative_system", contexts.get("negative"))
    if negative == System.NONE.value and "negative_system" in contexts:
        branches.append({"system": None})
    elif negative == System.DEFAULT.value and "negative_system" in contexts:
        branches.append({"default_system": True})
    elif negative is not None:
        given["negative_prompt"] = negative
    for key in _BRANCHES:
        if contexts.get(key):
            fields = {key: contexts[key]}
            if key == "without" and "instead" in contexts:
                fields["instead"] = contexts["instead"]
            branches.append(fields)
    if branches:
        guide["branches"] = branches


def _add_system(given: dict[str, Any], text: str) -> None:
    """A system message where the conversation has none: the first message of a chat, `instructions` of a response."""
    messages = given.get("messages", given.get("input"))
    if isinstance(messages, list) and any(_role(message) in ("system", "developer") for message in messages):
        return
    if "input" in given:
        given.setdefault("instructions", text)
    elif isinstance(messages, list):
        given["messages"] = [{"role": "system", "content": text}, *messages]


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None
