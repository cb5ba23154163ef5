"""Branches as JSON objects, the same over HTTP, in files and on the command line.

    {"prompt": TEXT}                      a text (in a chat: with its special tokens already in it)
    {"prompt_ids": [ID, ...]}             token ids
    {"last_tokens": COUNT}                the end of the prompt
    {"empty": true}                       the token that begins a text
    {"suffix": TEXT or [ID, ...]}         the prompt and the output so far, then this
    {"without": TEXT, "instead": TEXT}    the prompt with a passage left out, or swapped
    {"system": TEXT or null}              in a chat: another system message, or none
    {"default_system": true}              in a chat: what the template writes without a system message
    {"messages": [...]}                   in a chat: another conversation

each with an optional "weight"; with "model" (a name) or "adapter" (a name, null for none) another model reads it, alone
with the prompt as its context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from counterpoint.contexts.chat import DEFAULT_SYSTEM, NO_SYSTEM
from counterpoint.contexts.kinds import Empty, LastTokens, OtherModel, Rendered, Suffix, Swapped
from counterpoint.errors import GuideError, PromptError
from counterpoint.guide import Branch

if TYPE_CHECKING:
    from counterpoint.models.model import Model

CHAT_FIELDS = ("system", "default_system", "messages")
CONTEXT_FIELDS = ("prompt", "prompt_ids", "last_tokens", "empty", "suffix", "without", *CHAT_FIELDS)
READER_FIELDS = ("model", "adapter")
FIELDS = (*CONTEXT_FIELDS, "instead", *READER_FIELDS, "weight")


def branch_from_wire(
    fields: Any, *, model: Model, models: Mapping[str, Model] | None = None, is_chat: bool = False
) -> Branch:
    """A branch from its JSON object; for a chat it goes to `chat(branches=...)`.

    Args:
        fields: the object.
        model: the request's model, for its adapters.
        models: other models by name.
        is_chat: whether the request is a conversation.

    Raises:
        GuideError, PromptError: an unknown field, no context or two, or a value of the wrong kind.
    """
    if not isinstance(fields, Mapping):
        raise GuideError(f"a branch is {fields!r:.60}; use an object with a prompt and a weight")
    for name in fields:
        if name not in FIELDS:
            raise GuideError(f"unknown field {name!r} of a branch; known are {', '.join(FIELDS)}")
    given = [name for name in CONTEXT_FIELDS if name in fields]
    readers = [name for name in READER_FIELDS if name in fields]
    if len(given) > 1 or len(readers) > 1 or not (given or readers):
        raise PromptError(
            f"a branch has the fields {', '.join(fields) or 'of nothing'}; give one context and at most one reader"
        )
    if "instead" in fields and given != ["without"]:
        raise PromptError("a branch has instead and no passage to leave out; give without too")
    if given and given[0] in CHAT_FIELDS and not is_chat:
        raise PromptError(f"a branch has {given[0]}, which is for conversations; give a prompt")
    context = _context(given[0], fields, is_chat) if given else None
    if readers:
        context = OtherModel(_reader(readers[0], fields[readers[0]], model, models or {}), context)
    return Branch(context, fields.get("weight"))


def _context(name: str, fields: Mapping[str, Any], is_chat: bool) -> Any:
    value = fields[name]
    if name == "prompt":
        return Rendered(_text(name, value)) if is_chat else _text(name, value)
    if name == "prompt_ids":
        return _ids(name, value)
    if name == "last_tokens":
        return LastTokens(value)
    if name in ("empty", "default_system"):
        if value is not True:
            raise PromptError(f"{name} of a branch is {value!r}; it can only be true")
        return Empty() if name == "empty" else DEFAULT_SYSTEM
    if name == "suffix":
        return Suffix(_text(name, value) if isinstance(value, str) else _ids(name, value))
    if name == "without":
        return Swapped(value, fields.get("instead", ""))
    if name == "system":
        return NO_SYSTEM if value is None else _text(name, value)
    if not isinstance(value, list) or not value:
        raise PromptError(f"messages of a branch is {value!r:.60}; give a list of objects with role and content")
    return value


def _reader(kind: str, value: Any, model: Model, models: Mapping[str, Model]) -> Model:
    if kind == "adapter":
        if value is not None and not isinstance(value, str):
            raise PromptError(f"adapter of a branch is {value!r}; give a name, or null for none")
        return model.with_adapter(value)
    if not isinstance(value, str) or value not in models:
        known = f"known are {', '.join(models)}" if models else "no other model is loaded"
        raise PromptError(f"there is no model {value!r:.60} for a branch; {known}")
    return models[value]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise PromptError(f"{name} of a branch is {value!r:.60}; use a text that is not empty")
    return value


def _ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise PromptError(f"{name} of a branch is {value!r:.60}; use a list of token ids that is not empty")
    return tuple(value)
