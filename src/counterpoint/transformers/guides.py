"""A guide for each row, applied to two branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from counterpoint.formulas import guided, log_probs
from counterpoint.guide import Branch, Guide

NEGATIVE = (Branch(None),)


class RowGuides:
    """The guides of a batch, row by row.

    Args:
        guides: one for each row.
    """

    def __init__(self, guides: Sequence[Guide]) -> None:
        self._guides = list(guides)
        self._weights = [guide.weights(NEGATIVE)[0] for guide in self._guides]

    def needs_negative(self, step: int) -> bool:
        """Whether the negative can change any row's generated token number `step`."""
        return any(g.active(step) and w != 0 for g, w in zip(self._guides, self._weights))

    @property
    def has_effect(self) -> bool:
        """Whether any row can differ from the unguided one."""
        return any(g.plausibility > 0 or w != 0 for g, w in zip(self._guides, self._weights))

    def apply(self, cond_logits: Tensor, negative_logits: Tensor | None, step: int) -> Tensor:
        """Guided log-probabilities in float32. (R, V), (R, V) -> (R, V); None where `needs_negative` said no."""
        cond = log_probs(cond_logits)
        other = cond if negative_logits is None else log_probs(negative_logits)
        kinds = [(g.space, g.adaptive) if g.active(step) else None for g in self._guides]
        result = cond
        for kind in dict.fromkeys(kinds):
            if kind is None:
                continue
            at = [row for row, k in enumerate(kinds) if k == kind]
            part = self._guided(at, cond[at], other[at], *kind)
            if len(at) == len(kinds):
                return part
            result = result.index_copy(0, torch.tensor(at, device=cond.device), part)
        return result

    def _guided(self, at: list[int], cond: Tensor, other: Tensor, space: str, adaptive: str | None) -> Tensor:
        def column(values: list[float]) -> Tensor | None:
            return torch.tensor(values, dtype=cond.dtype, device=cond.device) if any(values) else None

        weights = torch.tensor([[self._weights[row]] for row in at], dtype=cond.dtype, device=cond.device)
        return guided(
            cond,
            other.unsqueeze(1),
            weights,
            space=space,
            plausibility=column([self._guides[row].plausibility for row in at]),
            gate=column([self._guides[row].gate for row in at]),
            adaptive=adaptive is not None,
        )
