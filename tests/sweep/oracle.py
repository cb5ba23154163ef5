"""What a loop without any state finds: every text is read anew, by the model's own forward."""

from __future__ import annotations

import copy

import torch
from conformance.oracle import guided
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.guide import Guide
from sweep.shrink import read

TokenIds = tuple[int, ...]

BEAMS = 3


class Oracle:
    """The model's own forward of every text anew, row by row; each text is read once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = copy.deepcopy(model) if model.config.is_encoder_decoder else model
        self._known: dict[tuple[TokenIds, TokenIds], Tensor] = {}

    @torch.no_grad()
    def logits(self, text: TokenIds, generated: TokenIds) -> Tensor:
        key = (text, generated)
        if key not in self._known:
            # Some encoders switch to another attention for good at a short text.
            fresh = copy.deepcopy(self._model) if self._model.config.is_encoder_decoder else self._model
            self._known[key] = read(fresh, text, generated)
        return self._known[key]

    def logprobs(self, prompt: TokenIds, negative: TokenIds, generated: TokenIds, guide: Guide) -> Tensor:
        cond = self.logits(prompt, generated)
        step, off = len(generated), guide.stop is not None and len(generated) >= guide.stop
        if step < guide.start or off or _entropy(cond) < guide.gate:
            return cond.double().log_softmax(-1)
        return guided(cond, self.logits(negative, generated), guide)

    def gap(self, prompt: TokenIds, negative: TokenIds, got: TokenIds, guide: Guide) -> float:
        """How much less probable than the best tokens those of a greedy text are at most, in nats."""
        gaps = [0.0]
        for step, token in enumerate(got):
            logprobs = self.logprobs(prompt, negative, got[:step], guide)
            gaps.append(float(logprobs.max() - logprobs[token]))
        return max(gaps)

    def total(self, prompt: TokenIds, negative: TokenIds, got: TokenIds, guide: Guide) -> float:
        return sum(float(self.logprobs(prompt, negative, got[:at], guide)[token]) for at, token in enumerate(got))

    def best_beams(self, prompt: TokenIds, negative: TokenIds, guide: Guide, steps: int) -> float:
        """The log-probability of what a beam search finds."""
        running: list[tuple[float, TokenIds]] = [(0.0, ())]
        for _ in range(steps):
            grown = []
            for total, tokens in running:
                top = self.logprobs(prompt, negative, tokens, guide).topk(BEAMS)
                grown += [(total + float(v), (*tokens, int(i))) for v, i in zip(top.values, top.indices)]
            running = sorted(grown, key=lambda pair: -pair[0])[:BEAMS]
        return running[0][0]


def _entropy(logits: Tensor) -> float:
    logprobs = logits.double().log_softmax(-1)
    return float(-(logprobs.exp() * logprobs).sum())
