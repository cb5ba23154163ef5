"""Scores in log space straight from the logits of many sequences, and draws from them.

Normalising adds the same to all tokens of a distribution, so it is left out. An infinite logit has rules of its own, which
`formulas.combine_log` knows: such sequences are told, and chosen for by the formula.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence as List

import torch
from torch import Tensor

from counterpoint import formulas
from counterpoint.engine.sequence import Sequence
from counterpoint.models.kernels import choice
from counterpoint.sampling import NEG_INF, draw_rows, in_range, tempered, truncated, uniform


class Scores:
    """Scores of a group of sequences, whose softmax is the guided distribution.

    Args:
        group: sequences of as many branches each, whose guides combine in log space, with plausibility at most.
        applied: whether their guides act at this step.
        left: (B, V) of bool, the tokens that a constraint leaves; None is all.

    Attributes:
        best: of each sequence the first of its best tokens, or -1 where a branch or the best score is not finite, so that its
            scores mean nothing.
    """

    def __init__(self, group: List[Sequence], *, applied: bool, left: Tensor | None = None) -> None:
        rows = [sequence.predicted() if applied else sequence.predicted()[:1] for sequence in group]
        weights = [sequence.needed_weights if applied else [] for sequence in group]
        plausible = [sequence.guide.plausibility if applied else 0.0 for sequence in group]
        self._weighed: choice.Weighed | None = None
        self._written: Tensor | None = None
        if group[0].model.has_kernels and _suits(rows) and is_available():
            self._weighed = choice.Weighed(rows, weights, _margins(plausible), left)
            self.best = self._weighed.best
        else:
            self._written, self.best = _by_torch(rows, weights, plausible, left)

    def written(self) -> Tensor:
        """(B, V)"""
        if self._written is None:
            assert self._weighed is not None  # one of them is there
            self._written = self._weighed.written()
        return self._written

    def drawn(self, group: List[Sequence]) -> list[int]:
        """A token for each sequence, each with a best one: the same as one by one."""
        if self._weighed is None or any(sequence.request.sampling.truncates for sequence in group):
            return drawn(group, self.written())
        return _drawn(self._weighed, group, [sequence.request.sampling.temperature for sequence in group])


def drawn(group: List[Sequence], scores: Tensor) -> list[int]:
    """A token for each row of scores (B, V), the same as one by one."""
    samplings = [sequence.request.sampling for sequence in group]
    temperatures = [sampling.temperature for sampling in samplings]
    if any(sampling.truncates for sampling in samplings):
        scores, temperatures = tempered(scores, temperatures), [1.0] * len(group)
        scores = torch.stack([truncated(row, sampling) for row, sampling in zip(scores, samplings)])
    rows = [[row] for row in scores]
    if group[0].model.has_kernels and _suits(rows) and is_available():
        weighed = choice.Weighed(rows, [[]] * len(rows), [math.inf] * len(rows))
        if -1 not in weighed.best:
            return _drawn(weighed, group, temperatures)
    return draw_rows(tempered(scores, temperatures), [sequence.source for sequence in group])


def _drawn(weighed: choice.Weighed, group: List[Sequence], temperatures: list[float]) -> list[int]:
    numbers = uniform(weighed.size, [sequence.source for sequence in group], torch.device("cpu"))
    return weighed.drawn(list(map(in_range, temperatures)), numbers)


def _suits(rows: list[list[Tensor]]) -> bool:
    first = rows[0][0]
    if first.dtype not in choice.KINDS:
        return False
    return all(row.dtype is first.dtype and row.is_cpu and row.stride(0) == 1 for own in rows for row in own)


def _margins(plausible: List[float]) -> list[float]:
    return [-math.log(least) if least else math.inf for least in plausible]


def _by_torch(
    rows: List[List[Tensor]], weights: List[List[float]], plausible: List[float], left: Tensor | None
) -> tuple[Tensor, list[int]]:
    logits = torch.stack([row for own in rows for row in own]).float()
    logits = logits.view(len(rows), -1, logits.shape[-1])  # (B, 1 + K, V)
    cond = scores = logits[:, 0]
    if logits.shape[1] > 1:
        # Conditioning each branch on a constraint first would add a number to each of them: here it can come last.
        scores = formulas.combine_logits(cond, logits[:, 1:], logits.new_tensor(weights))
    if left is not None:
        cond, scores = (x.masked_fill(~left, NEG_INF) for x in (cond, scores))
    if any(plausible):
        scores = scores.masked_fill(formulas.implausible(cond, cond.new_tensor(plausible)), NEG_INF)
    # Of each branch too: weighted by nothing or less, an infinite logit would not show in the scores.
    most = torch.cat([logits.amax(-1), scores.amax(-1, keepdim=True)], 1)
    best = scores.argmax(-1).masked_fill(~most.isfinite().all(-1), -1)
    return scores, best.tolist()


@functools.cache
def is_available() -> bool:
    """Whether this machine has the calls of `kernels.choice`, and they give what the formulas and draws here give."""
    if not choice.is_available():
        return False
    source = torch.Generator().manual_seed(0)
    for size, num_others, dtype in ((50, 0, torch.float32), (1003, 1, torch.bfloat16), (2048, 3, torch.float32)):
        rows = (4 * torch.randn(3, 1 + num_others, size, generator=source)).to(dtype)
        left, weights = (
            torch.rand(3, size, generator=source) > 0.3,
            torch.randn(3, num_others, generator=source).tolist(),
        )
        for plausible, allowed in (([0.0] * 3, None), ([0.0, 0.01, 0.1], left)):
            want, best = _by_torch(list(rows), weights, plausible, allowed)
            weighed = choice.Weighed(list(rows), weights, _margins(plausible), allowed)
            if not torch.allclose(weighed.written(), want, rtol=1e-5, atol=1e-5):
                return False
            chosen = want.gather(1, torch.tensor([best, weighed.best]).T)
            if not (chosen[:, 0] - chosen[:, 1] <= 1e-4).all():
                return False
            temperatures, numbers = [1.0, 0.7, 1.3], [torch.Generator().manual_seed(seed) for seed in range(3)]
            drawn = weighed.drawn(temperatures, uniform(size, numbers, want.device))
            again = [torch.Generator().manual_seed(seed) for seed in range(3)]
            if drawn != draw_rows(tempered(want, temperatures), again):
                return False
    return True
