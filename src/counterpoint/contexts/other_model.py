"""Branches that another model reads, or the same model with an adapter on or off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.contexts.kinds import OtherModel
from counterpoint.errors import UnsupportedError
from counterpoint.guide import Branch, Guide, finite

if TYPE_CHECKING:
    from counterpoint.models.model import Model

CONTRASTIVE_PLAUSIBILITY = 0.1


def contrastive(prompt: Any, amateur: Model) -> BranchedPrompt:
    """A prompt against what a weaker model makes of it: contrastive decoding.

    With the guidance scale s the score is s * l_expert + (1 - s) * l_amateur, and plausibility 0.1 unless a guide says
    otherwise. O'Brien & Lewis write s as 1 + beta (0.5, our default 1.5); Li et al. subtract the two scores outright,
    which no finite scale equals, since here weights sum to 1.

    Args:
        prompt: a text or token ids.
        amateur: a model with the tokenizer of the one that generates.

    Source: Li et al. 2022, arXiv 2210.15097; O'Brien & Lewis 2023, arXiv 2309.09117.
    """
    return BranchedPrompt(prompt, (Branch(OtherModel(amateur)),), Guide(plausibility=CONTRASTIVE_PLAUSIBILITY))


def proxy_tuning(prompt: Any, tuned: Model, untuned: Model, *, strength: float = 1.0) -> BranchedPrompt:
    """A large model pushed by what fine-tuning did to a small one: l_large + strength * (l_tuned - l_untuned).

    Args:
        prompt: a text or token ids, for the large model that generates.
        tuned, untuned: the small model after and before its fine-tuning; tokenizer as that of the large one.
        strength: finite; 1 is the paper's, negative undoes.

    Raises:
        GuideError: the strength is not a finite number.

    Source: Liu et al. 2024, arXiv 2401.08565.
    """
    strength = finite("strength", strength)
    return BranchedPrompt(prompt, (Branch(OtherModel(tuned), strength), Branch(OtherModel(untuned), -strength)))


def against_adapter(prompt: Any, model: Model, *, adapter: str | None = None) -> BranchedPrompt:
    """A prompt against the same model with another adapter, or with none: amplifies what the adapter learned.

    Generate with `model` for that. To undo what it learned, generate with `model.with_adapter(None)` and name the
    adapter here. There is one set of weights in memory, and a row of its own for each state.

    Args:
        prompt: a text or token ids.
        model: the model that has the adapter.
        adapter: the one that the other branch has on; None is the model as it was before any.

    Raises:
        UsageError: the model has no such adapter.
    """
    return BranchedPrompt(prompt, (Branch(OtherModel(model.with_adapter(adapter))),))


def check_tokenizer(model: Model, other: Model, *, role: str = "be a branch beside") -> None:
    """Refuse a model whose token ids do not mean the same texts.

    Args:
        role: what the other is to do to the first, for the message.

    Raises:
        UnsupportedError: with what differs.
    """
    if other is model or other.hf is model.hf:
        return
    start = f"{other.name} can't {role} {model.name}: "
    if (model.tokenizer is None) != (other.tokenizer is None):
        lacks = model.name if model.tokenizer is None else other.name
        raise UnsupportedError(f"{start}{lacks} has no tokenizer to compare; save one into its folder")
    if model.tokenizer is None:
        if model.vocab_size != other.vocab_size:
            raise UnsupportedError(
                f"{start}it has {other.vocab_size} tokens, not {model.vocab_size}; use one of its family"
            )
        return
    if model.vocabulary == other.vocabulary:
        return
    raise UnsupportedError(f"{start}{_difference(model, other)}; use a model with the same tokenizer")


def _difference(model: Model, other: Model) -> str:
    ours, theirs = model.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if ours == theirs:
        return "its tokenizer splits texts otherwise"
    lacking = min(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])[1]
    named = [next((repr(text) for text, i in vocab.items() if i == lacking), "nothing") for vocab in (theirs, ours)]
    return f"its token {lacking} is {named[0]}, not {named[1]}"
