"""Branches as JSON objects, the same over HTTP, in files and on the command line.

    {"prompt": TEXT}                      a text; in a chat another system message
    {"prompt_ids": [ID, ...]}             token ids
    {"last_tokens": COUNT}                the end of the prompt
    {"empty": true}                       the token that begins a text
    {"suffix": TEXT or [ID, ...]}         the prompt and the output so far, then this
    {"without": TEXT, "instead": TEXT}    the prompt with a passage left out, or swapped
    {"system": TEXT or null}              in a chat: another system message, or none
    {"default_system": true}              in a chat: what the template writes without a system message
    {"messages": [...]}                   in a chat: another conversation

each with an optional "weight"; with "model" (a name), "adapter" (a name, null for none) or "vector" (a name, null for
none; with an optional "strength") another model reads it, alone with the prompt as its context. null is the same as left out where it does not mean none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from counterpoint.contexts.chat import DEFAULT_SYSTEM, NO_SYSTEM
from counterpoint.contexts.kinds import Empty, LastTokens, OtherModel, Suffix, Swapped
from counterpoint.errors import GuideError, PromptError, UsageError
from counterpoint.guide import Branch
from counterpoint.wire.messages import messages_from_wire

if TYPE_CHECKING:
    from counterpoint.models.model import Model

CHAT_FIELDS = ("system", "default_system", "messages")
CONTEXT_FIELDS = ("prompt", "prompt_ids", "last_tokens", "empty", "suffix", "without", *CHAT_FIELDS)
READER_FIELDS = ("model", "adapter", "vector")
BRANCH_FIELDS = (*CONTEXT_FIELDS, "instead", *READER_FIELDS, "strength", "weight")
NULL_IS_NONE = ("system", "adapter", "vector")


def branch_from_wire(
    fields: Any,
    *,
    model: Model | None = None,
    models: Mapping[str, Model] | None = None,
    is_chat: bool = False,
    param: str = "branches",
) -> Branch:
    """A branch from its JSON object; for a chat it goes to `chat(branches=...)`.

    Args:
        fields: the object.
        model: the request's model, for its adapters and vectors; None where no branch can name one.
        models: other models by name.
        is_chat: whether the request is a conversation.
        param: what the errors call the object.

    Raises:
        GuideError, PromptError: an unknown field, no context or two, or a value of the wrong kind.
    """
    if not isinstance(fields, Mapping):
        raise GuideError(f"a branch is {fields!r:.60}; use an object with a prompt and a weight", param=param)
    unknown = [name for name in fields if name not in BRANCH_FIELDS]
    if unknown:
        raise GuideError(
            f"unknown field {', '.join(map(repr, unknown))} of a branch; known are {', '.join(BRANCH_FIELDS)}",
            param=f"{param}.{unknown[0]}",
        )
    fields = {name: value for name, value in fields.items() if value is not None or name in NULL_IS_NONE}
    given = [name for name in CONTEXT_FIELDS if name in fields]
    readers = [name for name in READER_FIELDS if name in fields]
    if len(given) > 1 or len(readers) > 1 or not (given or readers):
        raise PromptError(
            f"a branch has {' and '.join([*given, *readers]) or 'no context'}; give one context and at most one reader: "
            f"{', '.join(CONTEXT_FIELDS)}; {', '.join(READER_FIELDS)}",
            param=param,
        )
    if "instead" in fields and given != ["without"]:
        raise PromptError("a branch has instead and no passage to leave out; give without too", param=param)
    if "strength" in fields and fields.get("vector") is None:
        raise PromptError(
            "a branch has a strength and no vector; give the vector's name too", param=f"{param}.strength"
        )
    if given and given[0] in CHAT_FIELDS and not is_chat:
        raise PromptError(f"a branch has {given[0]}, which is for conversations; give a prompt", param=param)
    context = _context(given[0], fields, is_chat, f"{param}.{given[0]}") if given else None
    if readers:
        reader = _reader(readers[0], fields, model, models or {}, param)
        context = OtherModel(reader, context)
    try:
        return Branch(context, fields.get("weight"))
    except GuideError as error:
        raise GuideError(str(error), param=f"{param}.weight") from None


def _context(name: str, fields: Mapping[str, Any], is_chat: bool, param: str) -> Any:
    value = fields[name]
    if name == "prompt":
        return text_from_wire(value, f"{name} of a branch", param)
    if name == "prompt_ids":
        return ids_from_wire(value, f"{name} of a branch", param)
    if name == "last_tokens":
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PromptError(f"last_tokens of a branch is {value!r:.60}; use 1 or more", param=param)
        return LastTokens(value)
    if name in ("empty", "default_system"):
        if value is not True:
            raise PromptError(f"{name} of a branch is {value!r:.60}; it can only be true", param=param)
        return Empty() if name == "empty" else DEFAULT_SYSTEM
    if name == "suffix":
        is_text = isinstance(value, str)
        return Suffix((text_from_wire if is_text else ids_from_wire)(value, f"{name} of a branch", param))
    if name == "without":
        if not isinstance(value, str) or not value.strip() or not isinstance(fields.get("instead", ""), str):
            raise PromptError(f"without of a branch is {value!r:.60}; give a text of the prompt", param=param)
        return Swapped(value, fields.get("instead", ""))
    if name == "system":
        return NO_SYSTEM if value is None else text_from_wire(value, f"{name} of a branch", param)
    return messages_from_wire(value, param=param)


def _reader(
    kind: str, fields: Mapping[str, Any], model: Model | None, models: Mapping[str, Model], param: str
) -> Model:
    value, param, strength_param = fields[kind], f"{param}.{kind}", f"{param}.strength"
    if kind != "model":
        if value is not None and not isinstance(value, str):
            raise PromptError(f"{kind} of a branch is {value!r:.60}; give a name, or null for none", param=param)
        if model is None:
            raise PromptError(f"a branch has {kind}, and none can be switched here; leave it out", param=param)
        if kind == "adapter":
            return model.with_adapter(value)
        try:
            return model.with_vector(value, fields.get("strength", 1.0))
        except GuideError as error:
            raise GuideError(f"{error} (of a branch's vector)", param=strength_param) from None
        except UsageError as error:
            error.param = param
            raise
    if not isinstance(value, str) or value not in models:
        known = f"known are {', '.join(models)}" if models else "no other model is loaded"
        raise PromptError(f"there is no model {value!r:.60} for a branch; {known}", param=param)
    return models[value]


def text_from_wire(value: Any, name: str, param: str) -> str:
    """A text that is not empty.

    Raises:
        PromptError: it is something else.
    """
    if not isinstance(value, str) or not value:
        raise PromptError(f"{name} is {value!r:.60}; use a text that is not empty", param=param)
    return value


def ids_from_wire(value: Any, name: str, param: str) -> tuple[int, ...]:
    """Token ids, at least one. Whether the model has them is not known here.

    Raises:
        PromptError: they are something else.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise PromptError(f"{name} is {value!r:.60}; use a list of token ids that is not empty", param=param)
    for token_id in value:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise PromptError(f"{name} has {token_id!r:.60}; use token ids, 0 or more", param=param)
    return tuple(value)
