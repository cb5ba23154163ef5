"""From the branches' predictions of many sequences to one token each."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor

from counterpoint import formulas
from counterpoint.engine.request import Observation, Progress, TokenLogprob
from counterpoint.engine.sequence import Sequence
from counterpoint.errors import NothingLeftError
from counterpoint.guide import Guide
from counterpoint.sampling import draw, processed


def choose(sequences: list[Sequence]) -> list[Progress]:
    """Choose the next token of every sequence and append it. Sequences whose guides work alike go together."""
    alike: dict[tuple, list[Sequence]] = defaultdict(list)
    for sequence in sequences:
        alike[_way(sequence)].append(sequence)
    progress: dict[Sequence, Progress] = {}
    for way, group in alike.items():
        progress.update(_choose_alike(group, way))
    return [progress[sequence] for sequence in sequences]


def _choose_alike(group: list[Sequence], way: tuple) -> dict[Sequence, Progress]:
    plain = all(s.request.sampling.greedy and s.request.sampling.plain and _is_unwatched(s) for s in group)
    best = None
    try:
        if plain and way[2] == "log" and not any(_is_refined(s.request.guide) for s in group):
            best = _best_logits(group, way[0])
        if best is None:
            cond, others, guided = _guided(group, *way)
            best = guided.argmax(-1).tolist() if plain else None
    except Exception as error:  # of whatever kind: it ends one request and must not end the others
        if len(group) == 1:
            return {group[0]: group[0].fail(error)}
        return {sequence: p for one in group for sequence, p in _choose_alike([one], way).items()}
    progress: dict[Sequence, Progress] = {}
    for i, sequence in enumerate(group):
        try:
            if plain:
                progress[sequence] = sequence.accept(best[i], None)
            else:
                progress[sequence] = _one(sequence, cond[i], others[i], guided[i], way[0])
        except Exception as error:  # a processor, an observer or the tokenizer
            progress[sequence] = sequence.fail(error)
    return progress


def _way(sequence: Sequence) -> tuple:
    guide = sequence.request.guide
    applied = guide.active(sequence.step) and bool(sequence.needed or guide.plausibility)
    return (applied, len(sequence.needed), guide.space, guide.adaptive is not None)


def _is_refined(guide: Guide) -> bool:
    return bool(guide.plausibility or guide.gate or guide.adaptive)


def _best_logits(group: list[Sequence], applied: bool) -> list[int] | None:
    """The most probable token of each in log space, where it is seen from logits: normalising adds the same to all.

    None where the best is not finite: an infinite logit has rules of its own, which `formulas.combine_log` knows.
    """
    logits = torch.stack([row for sequence in group for row in sequence.predicted()]).float()
    logits = logits.view(len(group), -1, logits.shape[-1])  # (B, 1 + K, V)
    cond = scores = logits[:, 0]
    if applied and logits.shape[1] > 1:
        weights = torch.stack([sequence.needed_weights for sequence in group])
        scores = cond.clone()
        for at in range(1, logits.shape[1]):
            scores.addcmul_(weights[:, at - 1, None], logits[:, at] - cond)
    values, best = scores.max(-1)
    return best.tolist() if all(map(math.isfinite, values.tolist())) else None


def _guided(group: list[Sequence], applied: bool, _: int, space: str, adaptive: bool) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.stack([row for sequence in group for row in sequence.predicted()])
    logprobs = formulas.log_probs(logits).view(len(group), -1, logits.shape[-1])  # (B, 1 + K, V)
    cond, others = logprobs[:, 0], logprobs[:, 1:]
    if not applied:
        return cond, others, cond
    guides = [sequence.request.guide for sequence in group]
    guided = formulas.guided(
        cond,
        others,
        torch.stack([sequence.needed_weights for sequence in group]),
        space=space,
        plausibility=_column([g.plausibility for g in guides], cond),
        gate=_column([g.gate for g in guides], cond),
        adaptive=adaptive,
    )
    return cond, others, guided


def _column(values: list[float], like: Tensor) -> Tensor | None:
    return torch.tensor(values, device=like.device) if any(values) else None


def _is_unwatched(sequence: Sequence) -> bool:
    request = sequence.request
    return request.logprobs is None and request.observe is None and not request.processors


def _one(sequence: Sequence, cond: Tensor, others: Tensor, guided: Tensor, applied: bool) -> Progress:
    request, sampling = sequence.request, sequence.request.sampling
    seen = {"prompt_ids": request.prompt_ids, "output_ids": sequence.output_ids, "processors": request.processors}
    try:
        scores = processed(guided, sampling, **seen)
    except NothingLeftError:  # of what a constraint leaves, guidance left nothing: the prompt decides
        scores = processed(cond, sampling, **seen)
    token_id = draw(scores, sampling, sequence.source)
    if request.observe is not None:
        request.observe(sequence.index, Observation(sequence.step, token_id, cond, others, guided, applied))
    logprob = None if request.logprobs is None else _logprob(guided, token_id, request.logprobs)
    return sequence.accept(token_id, logprob)


def _logprob(guided: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    best = guided.topk(min(num_top, guided.shape[-1]))
    top = tuple(zip(best.indices.tolist(), best.values.tolist()))
    return TokenLogprob(token_id, float(guided[token_id]), top)
