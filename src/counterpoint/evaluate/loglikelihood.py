"""Guided log-likelihoods of given continuations. Knows nothing of tasks, text or files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint import formulas, guiding
from counterpoint.errors import PromptError
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed


@dataclass(frozen=True, slots=True)
class Item:
    """A continuation after a context, and the negative's context.

    Args:
        context: token ids of the conditional branch, at least one.
        continuation: token ids to score, at least one.
        negative: token ids of the further branch; None for no branch.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    negative: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.context or not self.continuation or self.negative == ():
            raise PromptError(f"{self} has a part without tokens; give at least one token id each")


@dataclass(frozen=True, slots=True)
class Score:
    """What a continuation is worth under a guide: nats (-inf where guidance rules it out), and whether greedy choice
    would write it."""

    logprob: float
    is_greedy: bool


@torch.inference_mode()
def score(
    model: Model,
    items: Sequence[Item],
    guides: Sequence[Guide],
    *,
    batch_size: int = 16,
    on_batch: Callable[[list[int], list[list[Score]]], None] | None = None,
) -> list[list[Score]]:
    """Score every item under every guide; the branches are read once for all guides.

    The continuation is fed to both branches, and at each position i the distribution is
    what `guiding.combined` makes of l_c and l_negative with the weight `1 - scale` at step i.

    Args:
        items: scored longest first, in batches.
        guides: each with a scale of its own.
        batch_size: items in one forward.
        on_batch: called after each batch with the items' numbers and their scores.

    Returns:
        scores[item][guide].

    Raises:
        PromptError: a context and its continuation don't fit the model.
    """
    for item in items:
        _check_fits(model, item)
    order = sorted(range(len(items)), key=lambda i: (-_length(items[i]), i))
    scores: list[list[Score]] = [[] for _ in items]
    for at in range(0, len(order), batch_size):
        batch = order[at : at + batch_size]
        for number, (cond, other) in zip(batch, _read(model, [items[i] for i in batch])):
            target = torch.tensor(items[number].continuation, device=cond.device)
            scores[number] = [_score(cond, other, target, guide) for guide in guides]
        if on_batch is not None:
            on_batch(batch, [scores[i] for i in batch])
    return scores


def _length(item: Item) -> int:
    return max(len(item.context), len(item.negative or ())) + len(item.continuation)


def _check_fits(model: Model, item: Item) -> None:
    # The last token is predicted and never read.
    if model.context_len is not None and _length(item) - 1 > model.context_len:
        raise PromptError(
            f"a context and its continuation have {_length(item)} tokens and {model.name} reads {model.context_len}; "
            "shorten the context or the negative"
        )


def _read(model: Model, items: Sequence[Item]) -> list[tuple[Tensor, Tensor | None]]:
    """Log-probabilities (T, V) of both branches at the continuation's T positions."""
    rows = model.new_rows()
    feeds: list[Feed] = []
    for item in items:
        for context in _contexts(item):
            ids = [*context, *item.continuation[:-1]]
            feeds.append(Feed(rows.add(), ids, columns=range(len(context) - 1, len(ids))))
    parts = iter(rows.forward(feeds).split([len(feed.columns) for feed in feeds]))
    read = []
    for item in items:
        logprobs = [formulas.log_probs(next(parts)) for _ in _contexts(item)]
        read.append((logprobs[0], logprobs[1] if len(logprobs) > 1 else None))
    return read


def _contexts(item: Item) -> list[tuple[int, ...]]:
    """The context, and the negative where it differs."""
    return [item.context] if item.negative in (None, item.context) else [item.context, item.negative]


def _score(cond: Tensor, other: Tensor | None, target: Tensor, guide: Guide) -> Score:
    guided = _guided(cond, other, guide)
    logprobs = guided.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return Score(float(logprobs.double().sum()), bool((guided.argmax(-1) == target).all()))


def _guided(cond: Tensor, other: Tensor | None, guide: Guide) -> Tensor:
    """The guided distribution at each position. (T, V) -> (T, V)."""
    others = cond[:, None][:, :0] if other is None else other[:, None]  # (T, K, V)
    weights = [] if other is None else [1.0 - guide.scale]
    return guiding.combined(cond, others, [weights] * len(cond), [guide] * len(cond), range(len(cond)))
