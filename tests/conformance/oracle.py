"""What is right: a loop without any state, which reads every branch anew at each step, row by row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conformance.architectures import next_logits
from conformance.request import Request, TokenIds
from counterpoint.guide import DEFAULT_SCALE, Guide

Draw = Callable[[Tensor, int, Request], list[int]]

LOOKS = {
    "draft": None,
    "prompt_side": "left",
    "negative_side": "left",
    "negative_mask": True,
    "expanded": False,
    "static": False,
    "embedded": False,
    "uses": 1,
}
TIE = 1e-4  # two tokens this close in log-probability may change places between kernels


def guided(cond_logits: Tensor, negative_logits: Tensor, guide: Guide) -> Tensor:
    """The definition, in double precision and by itself, for one row. (V,), (V,) -> (V,)."""
    scale = DEFAULT_SCALE if guide.scale is None else guide.scale
    cond, other = cond_logits.double().log_softmax(-1), negative_logits.double().log_softmax(-1)
    if guide.space == "log":
        out = scale * cond + (1 - scale) * other
        out = torch.where(other.isneginf(), cond, out)
    else:
        out = (scale * cond.exp() + (1 - scale) * other.exp()).clamp(min=0).log()
    out = out.masked_fill(cond.exp() < guide.plausibility * cond.exp().max(), -torch.inf)
    out = out.masked_fill(cond.isneginf(), -torch.inf)
    return (cond if bool(out.isneginf().all()) else out).log_softmax(-1)  # a row without any token is left as `cond`


def distribution(model: PreTrainedModel, request: Request, row: int, generated: TokenIds) -> Tensor:
    """The guided log-probabilities of a prompt's next token. -> (V,)."""
    guide = request.guide(row) or Guide()
    cond = next_logits(model, request.prompts[row], generated)
    negative = next_logits(model, request.negative(row), generated)
    logprobs = guided(cond, negative, guide)
    if request.repetition_penalty != 1:
        seen = sorted({*request.prompts[row], *generated})
        logprobs[seen] *= request.repetition_penalty
    return logprobs


def generate(model: PreTrainedModel, request: Request, draw: Draw) -> list[TokenIds]:
    """Greedy or sampled tokens of every row."""
    # What padding, caches and drafts look like is nothing to the oracle, so that many cases have one answer.
    plain = dataclasses.replace(request, **LOOKS, num_beams=1)
    return list(_generate(model, _state(model), plain, None if request.seed is None else draw))


def beams(model: PreTrainedModel, request: Request) -> list[TokenIds]:
    """The best beams of every prompt, best first, for texts that do not end early."""
    return list(_beams(model, _state(model), dataclasses.replace(request, **LOOKS)))


def _state(model: PreTrainedModel) -> tuple[Hashable, ...]:
    """What may differ between two uses of one model in the suite."""
    return model.dtype, tuple(model.get_output_embeddings()._forward_hooks)


@functools.lru_cache(maxsize=64)
@torch.no_grad()
def _generate(model: PreTrainedModel, _: Hashable, request: Request, draw: Draw | None) -> tuple[TokenIds, ...]:
    rows = [row for row in range(len(request.prompts)) for _ in range(request.num_samples)]
    done: list[TokenIds] = [()] * len(rows)
    for step in range(request.max_tokens):
        logprobs = torch.stack([distribution(model, request, row, tokens) for row, tokens in zip(rows, done)])
        chosen = logprobs.argmax(-1).tolist() if draw is None else draw(logprobs, step, request)
        done = [
            tokens if tokens and tokens[-1] in request.eos else (*tokens, token) for tokens, token in zip(done, chosen)
        ]
        if all(tokens[-1] in request.eos for tokens in done):
            break
    return tuple(done)


@functools.lru_cache(maxsize=64)
@torch.no_grad()
def _beams(model: PreTrainedModel, _: Hashable, request: Request) -> tuple[TokenIds, ...]:
    best: list[TokenIds] = []
    for row in range(len(request.prompts)):
        running: list[tuple[float, TokenIds]] = [(0.0, ())]
        for _ in range(request.max_tokens):
            scored = [
                (total + float(logprob), (*tokens, token))
                for total, tokens in running
                for token, logprob in enumerate(distribution(model, request, row, tokens))
            ]
            running = sorted(scored, key=lambda pair: -pair[0])[: request.num_beams]
        best += [tokens for _, tokens in running[: request.num_samples]]
    return tuple(best)


@torch.no_grad()
def differs(model: PreTrainedModel, request: Request, got: list[TokenIds], want: list[TokenIds]) -> str | None:
    """How two results differ, None where they are equal up to a tie within rounding."""
    if len(got) != len(want):
        return f"{len(got)} rows in place of {len(want)}"
    for number, (left, right) in enumerate(zip(got, want)):
        if left == right:
            continue
        at = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
        if at < min(len(left), len(right)) and request.seed is None and request.num_beams == 1:
            row = number // request.num_samples
            logprobs = distribution(model, request, row, left[:at])
            if abs(float(logprobs[left[at]] - logprobs[right[at]])) <= TIE:
                continue
        return f"row {number} token {at}: {left[at : at + 3]} in place of {right[at : at + 3]}"
    return None
