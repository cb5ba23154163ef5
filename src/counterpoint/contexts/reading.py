"""Contexts as token ids."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.contexts.inputs import Inputs
from counterpoint.contexts.kinds import Empty, LastTokens, OtherModel, Rendered, Suffix, Swapped
from counterpoint.contexts.other_model import check_tokenizer
from counterpoint.errors import GuideError, PromptError, TooLongError, UsageError
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
        inputs: what a processor made of it, where it is more than its ids.
    """

    ids: tuple[int, ...]
    weight: float
    is_suffix: bool = False
    model: Any = None
    inputs: Inputs | None = None

    @property
    def context(self) -> Hashable:
        """What the branch reads, equal where two branches predict the same."""
        return self.ids, self.is_suffix, self.model, self.inputs


def read_request(
    model: Model,
    prompt: Any,
    *,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    guide: Guide | None = None,
    takes_inputs: bool = False,
) -> tuple[tuple[int, ...], tuple[ReadBranch, ...], Guide | None]:
    """The prompt's token ids, the further branches, and the guide that goes with them.

    Args:
        prompt: a text, token ids, `Rendered`, `Inputs`, or a `BranchedPrompt`.
        takes_inputs: the caller reads pictures too: those of the branches, and the prompt's, see `inputs_of`.

    Raises:
        GuideError: branches are given twice, or a weight can't be.
        PromptError: a context can't be read.
    """
    if isinstance(prompt, BranchedPrompt):
        if negative is not None or branches is not None:
            raise GuideError(
                "the prompt was built with its branches, and a negative or branches are given too; keep one"
            )
        prompt, branches, guide = prompt.prompt, prompt.branches, guide or prompt.guide
    with _blamed("prompt"):
        prompt_ids = read_prompt(model, prompt)
    with _blamed("negative"):
        negative = _swapped(prompt, negative)
    if branches is not None:
        _check_branches(branches)
        swapped = []
        for number, branch in enumerate(branches):
            with _blamed(f"branches[{number}]"):
                swapped.append(dataclasses.replace(branch, context=_swapped(prompt, branch.context)))
        branches = swapped
    given = inputs_of(prompt)
    if given is not None:
        branches = _beside(given, branches)
    read = read_branches(model, prompt_ids, negative=negative, branches=branches, guide=guide)
    if not takes_inputs and (given is not None or any(branch.inputs is not None for branch in read)):
        raise PromptError("a context has pictures or sounds, which are read by generate and stream alone; give a text")
    return prompt_ids, read, guide


def inputs_of(prompt: Any) -> Inputs | None:
    """What a processor made of a prompt; None of one that is text alone."""
    prompt = prompt.prompt if isinstance(prompt, BranchedPrompt) else prompt
    return prompt if isinstance(prompt, Inputs) else None


def _beside(prompt: Inputs, branches: Sequence[Branch] | None) -> Sequence[Branch] | None:
    """Branches where another model reads the prompt, with its pictures too."""
    return branches and [
        dataclasses.replace(one, context=dataclasses.replace(one.context, context=prompt))
        if isinstance(one.context, OtherModel) and one.context.context is None
        else one
        for one in branches
    ]


def read_prompt(
    model: Model, prompt: str | Sequence[int] | Rendered | Inputs, *, name: str = "prompt"
) -> tuple[int, ...]:
    """Token ids of a text or of token ids, checked; of `Empty()` the token that begins a text.

    Raises:
        PromptError: it is empty, not a text, holds an id outside of the vocabulary, or is longer than the context.
    """
    if isinstance(prompt, Empty):
        return read_empty(model)
    if isinstance(prompt, Inputs):
        model.check_takes(prompt)
        ids = _checked_ids(model, prompt.ids, name)
        _check_len(model, ids, name)
        return ids
    is_rendered = isinstance(prompt, Rendered)
    text = prompt.text if is_rendered else prompt
    if isinstance(text, str):
        if not text:
            raise PromptError(
                f"the {name} is empty; give a text, or counterpoint.contexts.Empty() for nothing", param=name
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the {name} is not valid Unicode at character {error.start}; mend its encoding", param=name
            ) from None
        ids = tuple(model.encode(text, special_tokens=not is_rendered))
        if not ids:
            raise PromptError(f"the {name} {text[:40]!r} has no tokens; give a longer text", param=name)
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
    read = []
    for number, (branch, weight) in enumerate(zip(branches, weights)):
        with _blamed("negative" if negative is not None else f"branches[{number}]"):
            read.append(_read(model, prompt_ids, branch.context, weight))
    return tuple(read)


def _check_branches(branches: Any) -> None:
    wrong = (
        [one for one in branches if not isinstance(one, Branch)] if isinstance(branches, (list, tuple)) else [branches]
    )
    if wrong:
        raise GuideError(
            f"branches has {wrong[0]!r:.60}; give a list of counterpoint.Branch(context, weight)", param="branches"
        )


@contextlib.contextmanager
def _blamed(param: str) -> Iterator[None]:
    """What can't be read here is this argument's fault."""
    try:
        yield
    except UsageError as error:
        error.param = param
        raise


def _swapped(prompt: Any, context: Any) -> Any:
    """The context with a swap in the prompt made, where it is one."""
    if isinstance(context, OtherModel):
        return dataclasses.replace(context, context=_swapped(prompt, context.context))
    if not isinstance(context, Swapped):
        return context
    if isinstance(prompt, Rendered):
        return Rendered(context.write(prompt.text))
    if not isinstance(prompt, str):
        raise PromptError("the prompt is token ids or inputs, in which no passage can be swapped; give it as a text")
    return context.write(prompt)


def _read(model: Model, prompt_ids: tuple[int, ...], context: Any, weight: float) -> ReadBranch:
    for kind, read in _READERS.items():
        if isinstance(context, kind):
            return read(model, prompt_ids, context, weight)
    return ReadBranch(read_prompt(model, context, name="negative"), weight, inputs=inputs_of(context))


def _read_last(model: Model, prompt_ids: tuple[int, ...], context: LastTokens, weight: float) -> ReadBranch:
    return ReadBranch(prompt_ids[-context.count :], weight)


def read_empty(model: Model) -> tuple[int, ...]:
    """The token that begins a text. Raises `PromptError` where the model has none."""
    if model.bos_id is None:
        raise PromptError(f"{model.name} has no token that begins a text, so nothing can be empty; use LastTokens()")
    return (model.bos_id,)


def _read_empty(model: Model, prompt_ids: tuple[int, ...], context: Empty, weight: float) -> ReadBranch:
    return ReadBranch(read_empty(model), weight)


def _read_suffix(model: Model, prompt_ids: tuple[int, ...], context: Suffix, weight: float) -> ReadBranch:
    given = context.context
    if isinstance(given, str):
        given = model.encode(given, special_tokens=False) if given else ()
    return ReadBranch(_checked_ids(model, given, "suffix"), weight, is_suffix=True)


def _read_other(model: Model, prompt_ids: tuple[int, ...], context: OtherModel, weight: float) -> ReadBranch:
    other = context.model
    if other is model:
        return _read(model, prompt_ids, prompt_ids if context.context is None else context.context, weight)
    check_tokenizer(model, other)
    if context.context is None:
        _check_len(other, prompt_ids, "prompt")
        return ReadBranch(prompt_ids, weight, model=other)
    if isinstance(context.context, (Suffix, OtherModel)):
        raise PromptError(f"another model can't read {context.context!r:.60}; give it a text, token ids, or None")
    return dataclasses.replace(_read(other, prompt_ids, context.context, weight), model=other)


_READERS: dict[type, Callable[..., ReadBranch]] = {
    LastTokens: _read_last,
    Empty: _read_empty,
    Suffix: _read_suffix,
    OtherModel: _read_other,
}


def _checked_ids(model: Model, ids: Any, name: str) -> tuple[int, ...]:
    if isinstance(ids, (bytes, bytearray)):
        raise PromptError(
            f"the {name} is {type(ids).__name__}; decode it to a text first, as {name}.decode()", param=name
        )
    if hasattr(ids, "tolist"):  # an array or a tensor of ids
        ids = ids.tolist()
    first = next(iter(ids), None) if isinstance(ids, (list, tuple)) else ids
    if isinstance(first, Mapping) and "input_ids" in first:
        raise PromptError(
            f"the {name} is what a tokenizer returns; give its ['input_ids'] of one text, or with pictures "
            f"counterpoint.contexts.Inputs(...) of it",
            param=name,
        )
    if isinstance(first, Mapping):
        raise PromptError(
            f"the {name} is a conversation; give counterpoint.contexts.chat(model, messages) as the prompt", param=name
        )
    if isinstance(first, (list, tuple)):
        raise PromptError(f"the {name} is a list of lists; give the token ids of one text", param=name)
    try:
        ids = tuple(ids)
    except TypeError:
        raise PromptError(f"the {name} is {type(ids).__name__}; give a text or token ids", param=name) from None
    if not ids:
        raise PromptError(f"the {name} is empty; give at least one token id", param=name)
    ids = tuple(int(i) if isinstance(i, Integral) and not isinstance(i, bool) else i for i in ids)
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < model.vocab_size:
            raise PromptError(
                f"the {name} has the token id {token_id!r}; ids of {model.name} are whole numbers "
                f"from 0 to {model.vocab_size - 1}",
                param=name,
            )
    return ids


def _check_len(model: Model, ids: tuple[int, ...], name: str) -> None:
    if model.context_len is not None and len(ids) >= model.context_len:
        raise TooLongError(
            f"the {name} has {len(ids)} tokens and the context of {model.name} holds {model.context_len}, "
            "at least one of them for the output; shorten it",
            param=name,
        )
