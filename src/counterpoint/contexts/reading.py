"""Contexts as token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.contexts.built import Built
from counterpoint.contexts.kinds import Empty, LastTokens, Rendered, Suffix
from counterpoint.errors import GuideError, PromptError
from counterpoint.guide import Branch, Guide

if TYPE_CHECKING:
    from counterpoint.models.model import Model


@dataclass(frozen=True, slots=True)
class ReadBranch:
    """A branch as the engine takes it.

    Args:
        ids: its context as token ids; for a suffix, the ids that follow the conditional branch.
        weight: its weight in the combination; 0 where it takes no part.
        is_suffix: whether it follows the conditional branch instead of standing beside it.
        model: the model that reads it; None is the request's own.
    """

    ids: tuple[int, ...]
    weight: float
    is_suffix: bool = False
    model: Any = None


def read_request(
    model: Model,
    prompt: str | Sequence[int] | Rendered | Built,
    *,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    guide: Guide | None = None,
) -> tuple[tuple[int, ...], tuple[ReadBranch, ...], Guide | None]:
    """The prompt's token ids, the further branches, and the guide that goes with them.

    Raises:
        GuideError: branches are given twice, or a weight can't be.
        PromptError: a context can't be read.
    """
    if isinstance(prompt, Built):
        if negative is not None or branches is not None:
            raise GuideError("the prompt was built with its branches, and a negative or branches are given too; keep one")
        prompt, branches, guide = prompt.prompt, prompt.branches, guide or prompt.guide
    prompt_ids = read_prompt(model, prompt)
    return prompt_ids, read_branches(model, prompt_ids, negative=negative, branches=branches, guide=guide), guide


def read_prompt(model: Model, prompt: str | Sequence[int] | Rendered, *, name: str = "prompt") -> tuple[int, ...]:
    """Token ids of a text or of token ids, checked.

    Raises:
        PromptError: it is empty, not a text, holds an id outside of the vocabulary, or is longer than the context.
    """
    is_rendered = isinstance(prompt, Rendered)
    text = prompt.text if is_rendered else prompt
    if isinstance(text, str):
        if not text:
            raise PromptError(f"the {name} is empty; give a text, or counterpoint.contexts.Empty() for nothing")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(f"the {name} is not valid Unicode at character {error.start}; mend its encoding") from None
        ids = tuple(model.encode(text, special_tokens=not is_rendered))
        if not ids:
            raise PromptError(f"the {name} {text[:40]!r} has no tokens; give a longer text")
    else:
        ids = _checked_ids(model, prompt, name)
    _check_len(model, ids, name)
    return ids


def read_branches(
    model: Model,
    prompt_ids: tuple[int, ...],
    *,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    guide: Guide | None = None,
) -> tuple[ReadBranch, ...]:
    """The further branches of a request, with their weights.

    Without `negative` and `branches` there is none where `guide` is None too; with a guide the branch is the last
    prompt token, the default of Sanchez et al. 2023.

    Raises:
        GuideError: both `negative` and `branches` are given.
        PromptError: a context can't be read.
    """
    if negative is not None and branches is not None:
        raise GuideError("both negative and branches are given; put the negative among the branches with its weight")
    if branches is None:
        if negative is None and (guide is None or guide.scale == 1):
            return ()
        branches = [Branch(LastTokens() if negative is None else negative)]
    weights = (guide or Guide()).weights(branches)
    return tuple(_read(model, prompt_ids, branch.context, weight) for branch, weight in zip(branches, weights))


def _read(model: Model, prompt_ids: tuple[int, ...], context: Any, weight: float) -> ReadBranch:
    for kind, read in _READERS.items():
        if isinstance(context, kind):
            return read(model, prompt_ids, context, weight)
    return ReadBranch(read_prompt(model, context, name="negative"), weight)


def _read_last(model: Model, prompt_ids: tuple[int, ...], context: LastTokens, weight: float) -> ReadBranch:
    return ReadBranch(prompt_ids[-context.count :], weight)


def _read_empty(model: Model, prompt_ids: tuple[int, ...], context: Empty, weight: float) -> ReadBranch:
    if model.bos_id is None:
        raise PromptError(f"{model.name} has no token that begins a text, so no branch can be empty; use LastTokens()")
    return ReadBranch((model.bos_id,), weight)


def _read_suffix(model: Model, prompt_ids: tuple[int, ...], context: Suffix, weight: float) -> ReadBranch:
    given = context.context
    if isinstance(given, str):
        given = model.encode(given, special_tokens=False) if given else ()
    return ReadBranch(_checked_ids(model, given, "suffix"), weight, is_suffix=True)


_READERS: dict[type, Callable[..., ReadBranch]] = {LastTokens: _read_last, Empty: _read_empty, Suffix: _read_suffix}


def _checked_ids(model: Model, ids: Any, name: str) -> tuple[int, ...]:
    try:
        ids = tuple(ids)
    except TypeError:
        raise PromptError(f"the {name} is {type(ids).__name__}; give a text or token ids") from None
    if not ids:
        raise PromptError(f"the {name} is empty; give at least one token id")
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < model.vocab_size:
            raise PromptError(
                f"the {name} has the token id {token_id!r}; ids of {model.name} are whole numbers "
                f"from 0 to {model.vocab_size - 1}"
            )
    return ids


def _check_len(model: Model, ids: tuple[int, ...], name: str) -> None:
    if model.context_len is not None and len(ids) >= model.context_len:
        raise PromptError(
            f"the {name} has {len(ids)} tokens and the context of {model.name} holds {model.context_len}, "
            "at least one of them for the output; shorten it"
        )
