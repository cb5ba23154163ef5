"""Guides and steps of many rows made into calls of `formulas`: the one place that does so. Knows no model and no host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from counterpoint import formulas
from counterpoint.guide import Guide


def applies(guide: Guide, weights: Sequence[float], step: int) -> bool:
    """Whether the guide changes the distribution of generated token number `step`, given its branches' weights."""
    return guide.active(step) and (guide.plausibility > 0 or any(weights))


def sent(values: Sequence[object], device: torch.device, dtype: torch.dtype = torch.long) -> Tensor:
    """Numbers of the host as a tensor on `device`. A GPU is not waited for: it may still be at the model."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def combined(
    cond: Tensor, others: Tensor, weights: Sequence[Sequence[float]], guides: Sequence[Guide], steps: Sequence[int]
) -> Tensor:
    """Each row's guided log-probabilities; rows whose guide does not apply at their step stay `cond`, to the last bit.

    A row's result does not depend on the other rows.

    Args:
        cond: (B, V) log-probabilities of the conditional branch.
        others: (B, K, V) of the further branches.
        weights: B rows of K.
        guides: B.
        steps: B numbers of the generated token, from 0.

    Returns:
        (B, V) log-probabilities that sum to 1, see `formulas.guided`.
    """
    kinds = [
        (guide.space, guide.adaptive) if applies(guide, own, step) else None
        for guide, own, step in zip(guides, weights, steps, strict=True)
    ]
    result = cond
    for kind in dict.fromkeys(kinds):
        if kind is None:
            continue
        rows = [row for row, own in enumerate(kinds) if own == kind]
        if len(rows) == len(kinds):
            return _alike(cond, others, weights, guides)
        at = sent(rows, cond.device)
        part = _alike(cond[at], others[at], [weights[row] for row in rows], [guides[row] for row in rows])
        result = result.index_copy(0, at, part)
    return result


def _alike(cond: Tensor, others: Tensor, weights: Sequence[Sequence[float]], guides: Sequence[Guide]) -> Tensor:
    """`combined` of rows that have space and adaptive in common and whose guides all apply."""

    def column(values: Sequence[float]) -> Tensor | None:
        return sent(values, cond.device, cond.dtype) if any(values) else None

    return formulas.guided(
        cond,
        others,
        sent(weights, cond.device, cond.dtype).view(others.shape[:2]),
        space=guides[0].space,
        plausibility=column([guide.plausibility for guide in guides]),
        gate=column([guide.gate for guide in guides]),
        adaptive=guides[0].adaptive is not None,
    )
