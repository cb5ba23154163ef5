"""From the engine's observations to the numbers of a trace."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.engine import Observation, Request
from counterpoint.errors import UsageError
from counterpoint.trace.record import Seen

NUM_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one observation leaves behind; the meaning of the fields is that of `Step`."""

    token_id: int
    guidance: str
    entropy: float
    shift: float
    divergence: tuple[float, ...]
    seen: tuple[Seen, ...]  # conditional, branches, guided
    kept: float = 0.0


class Recorder:
    """Takes a request's observations; `steps[index]` are those of its sample `index`.

    Args:
        request: what is watched; its own `observe` is called too.
        num_alternatives: alternatives to keep of each distribution, 1 or more.

    Raises:
        UsageError: `num_alternatives` is out of its range.
    """

    def __init__(self, request: Request, *, num_alternatives: int = NUM_ALTERNATIVES) -> None:
        if isinstance(num_alternatives, bool) or not isinstance(num_alternatives, int) or num_alternatives < 1:
            raise UsageError(f"num_alternatives is {num_alternatives!r}; use a count of alternatives, 1 or more")
        self._request, self._num_alternatives = request, num_alternatives
        self._has_branches = bool(request.useful_branches)
        self.steps: dict[int, list[Numbers]] = {index: [] for index in range(request.num_samples)}

    def __call__(self, index: int, seen: Observation) -> None:
        if self._request.observe is not None:
            self._request.observe(index, seen)
        table = torch.cat((seen.cond[None], seen.others, seen.guided[None]))  # (R, V), R = 1 + K + 1
        num_rows, num_alternatives = table.shape[0], min(self._num_alternatives, table.shape[1])
        chosen = table[:, seen.token_id]
        best = table.topk(num_alternatives)
        parts = (
            self._kept(seen),
            chosen,
            (table > chosen[:, None]).sum(-1) + 1,
            *_spread(table),
            best.values.flatten(),
            best.indices.flatten(),
        )
        # One transfer a step; ids and ranks are exact in float32 up to 16 million.
        kept, *flat = torch.cat([part.float() for part in parts]).tolist()
        logprobs, ranks = flat[:num_rows], flat[num_rows : 2 * num_rows]
        entropy, *divergence = flat[2 * num_rows : 3 * num_rows]
        values = flat[3 * num_rows : (3 + num_alternatives) * num_rows]
        ids = flat[(3 + num_alternatives) * num_rows :]
        self.steps[index].append(
            Numbers(
                token_id=seen.token_id,
                guidance=self._guidance(seen),
                entropy=tidy(entropy),
                shift=tidy(divergence[-1]),
                divergence=tuple(tidy(d) for d in divergence[:-1]),
                seen=tuple(
                    Seen(
                        tidy(logprobs[row]),
                        int(ranks[row]),
                        _top(ids, values, row * num_alternatives, (row + 1) * num_alternatives),
                    )
                    for row in range(num_rows)
                ),
                kept=tidy(kept),
            )
        )

    def _kept(self, seen: Observation) -> Tensor:
        """The log-probability of what plausibility leaves, (1,)."""
        share = self._request.guide.plausibility if seen.applied else 0.0
        if not share:
            return seen.cond.new_zeros(1)
        is_left = seen.cond >= seen.cond.amax() + math.log(share)
        return seen.cond[is_left].logsumexp(-1, keepdim=True)

    def _guidance(self, seen: Observation) -> str:
        guide = self._request.guide
        if not self._has_branches and not guide.plausibility:
            return "off"
        if not seen.applied:
            return "outside"
        if guide.gate and torch.equal(seen.guided, seen.cond):
            return "gated"
        return "skipped" if self._has_branches and not len(seen.others) else "applied"


def _spread(table: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy in nats of the first row, and its Jensen-Shannon divergence in bits from each other. (R, V) -> (1,), (R - 1,).

    `formulas.entropy` and `formulas.jensen_shannon` give the same in three times the time: logarithms that are there
    already are not taken again.
    """
    probs = table.exp()
    own = -(probs * table).nansum(-1)  # 0 * -inf, the only NaN, counts as 0
    shared = (probs[:1] + probs[1:]) / 2
    joint = -(shared * shared.log()).nansum(-1)
    return own[:1], ((joint - (own[:1] + own[1:]) / 2) / math.log(2)).clamp(0.0, 1.0)


def tidy(number: float) -> float:
    """Six decimals, which is what float32 holds of a log-probability; no negative zero."""
    return round(number, 6) + 0.0


def _top(ids: list[float], values: list[float], start: int, end: int) -> tuple[tuple[int, float], ...]:
    """Alternatives of one row, without those that are ruled out."""
    return tuple((int(i), tidy(v)) for i, v in zip(ids[start:end], values[start:end]) if v != float("-inf"))
