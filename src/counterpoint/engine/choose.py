"""From the branches' predictions of many sequences to one token each."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from counterpoint import formulas
from counterpoint.engine.request import Observation, Progress, TokenLogprob
from counterpoint.engine.sequence import Sequence
from counterpoint.sampling import draw, processed


def choose(sequences: list[Sequence]) -> list[Progress]:
    """Choose the next token of every sequence and append it. Sequences whose guides work alike go together."""
    alike: dict[tuple, list[Sequence]] = defaultdict(list)
    for sequence in sequences:
        alike[_way(sequence)].append(sequence)
    progress: dict[int, Progress] = {}
    for way, group in alike.items():
        cond, others, guided = _guided(group, *way)
        if all(s.request.sampling.greedy and s.request.sampling.plain and _is_unwatched(s) for s in group):
            for sequence, token_id in zip(group, guided.argmax(-1).tolist()):
                progress[id(sequence)] = sequence.accept(token_id, None)
            continue
        for i, sequence in enumerate(group):
            progress[id(sequence)] = _one(sequence, cond[i], others[i], guided[i], way[0])
    return [progress[id(sequence)] for sequence in sequences]


def _way(sequence: Sequence) -> tuple:
    guide = sequence.request.guide
    applied = guide.active(sequence.step) and bool(sequence.predictions or guide.plausibility)
    return (applied, len(sequence.predictions), guide.space, guide.adaptive is not None)


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
        torch.stack([sequence.weights for sequence in group]),
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
    scores = processed(
        guided,
        sampling,
        prompt_ids=request.prompt_ids,
        output_ids=sequence.output_ids,
        processors=request.processors,
    )
    token_id = draw(scores, sampling, sequence.source)
    if request.observe is not None:
        request.observe(sequence.index, Observation(sequence.step, token_id, cond, others, guided, applied))
    logprob = None if request.logprobs is None else _logprob(guided, token_id, request.logprobs)
    return sequence.accept(token_id, logprob)


def _logprob(guided: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    best = guided.topk(min(num_top, guided.shape[-1]))
    top = tuple(zip(best.indices.tolist(), best.values.tolist()))
    return TokenLogprob(token_id, float(guided[token_id]), top)
