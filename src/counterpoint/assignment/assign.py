"""Options for prompts: scored by a guided model, then assigned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.assignment.best import Assignment, Bounds, Capacity, best_assignment
from counterpoint.contexts.reading import read_request
from counterpoint.errors import NoEffectWarning, PromptError, UnsupportedError, UsageError, warn
from counterpoint.evaluate.loglikelihood import Item, score
from counterpoint.guide import Guide
from counterpoint.models.loading import as_model
from counterpoint.models.model import Model
from counterpoint.store import Store, key_of


@dataclass(frozen=True, slots=True)
class Assigned:
    """What `assign` gives.

    Args:
        options: their names.
        chosen: the option of each prompt.
        logprobs: (N, M) of guided log-likelihoods in nats; -inf where guidance rules an option out.
        alone: each prompt's own best option, whatever the capacities.
        loss: for each prompt, how many nats the given option is below its own best.
        best: the assignment's worth, prices and runner-up.
    """

    options: tuple[str, ...]
    chosen: tuple[str, ...]
    logprobs: tuple[tuple[float, ...], ...]
    alone: tuple[str, ...]
    loss: tuple[float, ...]
    best: Assignment

    @property
    def counts(self) -> dict[str, int]:
        """How many prompts got each option."""
        return {option: self.chosen.count(option) for option in self.options}

    @property
    def prices(self) -> dict[str, float]:
        """What one more place for each option would be worth, in nats."""
        return dict(zip(self.options, self.best.prices))


def assign(
    model: Model | str,
    prompts: Sequence[Any],
    options: Sequence[str] | Mapping[str, str],
    *,
    negative: Any = None,
    guide: Guide | None = None,
    capacity: Mapping[str, Capacity] | None = None,
    rules: Any = None,
    store: str | Path | None = None,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Assigned:
    """Give each prompt one option, by what the guided model thinks, within capacities: the exact best assignment.

    An option's score is its guided log-likelihood as the continuation of the prompt, in nats: the sum over its tokens of
    what `Guide` makes of the prompt's and the negative's predictions. The assignment maximises the sum of the scores
    (`scipy.optimize.milp`, HiGHS); within a prompt only differences between options count.

    Args:
        model: what `counterpoint.load` gave, or a name for it.
        prompts: N texts, token ids, or what builders of `counterpoint.contexts` made.
        options: M texts that follow a prompt, as " positive"; or name to text.
        negative: what scores are pushed away from: one context for all prompts, or a list of one each.
        guide: as in `generate`; with a guide and no negative the other branch is the last prompt token.
        capacity: by option the most prompts that get it, or (least, most).
        rules: `scipy.optimize.LinearConstraint`s over N * M variables; number `i * M + j` is 1 where prompt i gets option j.
        store: a file that keeps scores, so that a run that was killed goes on where it was.
        batch_size: pairs of a prompt and an option in one forward.
        on_progress: called with how many pairs are scored, and of how many.

    Raises:
        UsageError: an argument has no meaning, or no assignment keeps capacities and rules; raised before the model reads.
        UnsupportedError: the negative is read by another model, or after the prompt.
    """
    names, texts = _options(options)
    prompts = _listed(prompts)
    bounds = Bounds(len(prompts), names, capacity, rules)
    if guide is not None and not isinstance(guide, Guide):
        raise UsageError(f"guide is {guide!r:.60}; use counterpoint.Guide(scale=...)", param="guide")
    negatives = list(negative) if _is_list(negative) else [negative] * len(prompts)
    if len(negatives) != len(prompts):
        raise UsageError(
            f"negative has {len(negatives)} entries for {len(prompts)} prompts; give one for all or one each",
            param="negative",
        )
    model = as_model(model)
    items: list[Item] = []
    guides: list[Guide] = []
    for prompt, other in zip(prompts, negatives):
        read, own = _items(model, prompt, texts, other, guide)
        items += read
        guides += [own] if own not in guides else []
    guides = [one for one in guides if one.scale != 1] or guides  # without a negative there is no scale
    if len(guides) > 1:
        raise UsageError(
            f"prompts were built with different guides, {guides[0]} and {guides[1]}; give one as guide=", param="guide"
        )
    used = guides[0]
    if negative is not None and used.scale == 1:
        warn(
            NoEffectWarning(
                "the scale is 1, so the negative changes no score; give a guide with another scale", "negative"
            )
        )
    scores = _scored(model, items, used, store, batch_size, on_progress)
    table = np.array(scores).reshape(len(prompts), len(names))
    best = best_assignment(table, bounds)
    alone = table.argmax(1)
    lost = table.max(1) - table[np.arange(len(table)), best.chosen]
    return Assigned(
        tuple(names),
        tuple(names[j] for j in best.chosen),
        tuple(map(tuple, table.tolist())),
        tuple(names[j] for j in alone),
        tuple(lost.tolist()),
        best,
    )


def _options(options: Any) -> tuple[list[str], list[str]]:
    if isinstance(options, str) or not isinstance(options, (Sequence, Mapping)):
        raise UsageError(f"options is {options!r:.60}; use a list of texts, or name to text", param="options")
    pairs = list(options.items()) if isinstance(options, Mapping) else [(text, text) for text in options]
    if not pairs:
        raise UsageError("options is empty; give at least one text", param="options")
    for name, text in pairs:
        if not isinstance(name, str) or not isinstance(text, str) or not text:
            raise UsageError(f"options has {text!r:.60}; use texts that are not empty", param="options")
    names, texts = [name for name, _ in pairs], [text for _, text in pairs]
    if len(set(texts)) < len(texts) or len(set(names)) < len(names):
        raise UsageError(f"options has {max(texts, key=texts.count)!r} twice; give each once", param="options")
    return names, texts


def _listed(prompts: Any) -> list[Any]:
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Sequence):
        raise PromptError(f"prompts is {prompts!r:.60}; give a list of them", param="prompts")
    if not prompts:
        raise PromptError("the list of prompts is empty; give at least one", param="prompts")
    return list(prompts)


def _is_list(negative: Any) -> bool:
    return isinstance(negative, (list, tuple)) and not (negative and isinstance(negative[0], int))


def _items(
    model: Model, prompt: Any, texts: Sequence[str], negative: Any, guide: Guide | None
) -> tuple[list[Item], Guide]:
    """A prompt with each option, and the guide that it goes with: its scale is 1 where there is no negative."""
    ids, branches, own = read_request(model, prompt, negative=negative, guide=guide)
    if len(branches) > 1 or any(branch.is_suffix or branch.model is not None for branch in branches):
        raise UnsupportedError(
            "assign reads one negative beside the prompt; a suffix, another model and several branches are for generate"
        )
    weight = branches[0].weight if branches else 0.0
    other = branches[0].ids if weight else None
    used = dataclasses.replace(own or guide or Guide(), scale=1 - weight)
    return [Item(ids, _continuation(model, prompt, ids, text), other) for text in texts], used


def _continuation(model: Model, prompt: Any, ids: tuple[int, ...], text: str) -> tuple[int, ...]:
    """The tokens of an option after a prompt: as the tokenizer splits both together, where that leaves the prompt as it is."""
    if isinstance(prompt, str):
        both = tuple(model.encode(prompt + text))
        if both[: len(ids)] == ids and len(both) > len(ids):
            return both[len(ids) :]
    alone = tuple(model.encode(text, special_tokens=False))
    if not alone:
        raise PromptError(f"the option {text!r:.60} has no tokens; give another text", param="options")
    return alone


def _scored(
    model: Model,
    items: list[Item],
    guide: Guide,
    path: str | Path | None,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
) -> list[float]:
    store = Store(path)
    try:
        weights = model.fingerprint if path is not None else ""
        keys = [
            key_of("assign/1", weights, item.context, item.continuation, item.negative, str(guide)) for item in items
        ]
        known = store.get(keys)
        missing = [at for at, key in enumerate(keys) if key not in known]
        num_done = len(items) - len(missing)
        if on_progress is not None:
            on_progress(num_done, len(items))

        def keep(numbers: list[int], scores: list[Any]) -> None:
            nonlocal num_done
            new = {keys[missing[number]]: one[0].logprob for number, one in zip(numbers, scores)}
            store.put({key: None if value == -np.inf else value for key, value in new.items()})
            known.update(new)
            num_done += len(numbers)
            if on_progress is not None:
                on_progress(num_done, len(items))

        score(model, [items[at] for at in missing], [guide], batch_size=batch_size, on_batch=keep)
        return [-np.inf if known[key] is None else known[key] for key in keys]
    finally:
        store.close()
