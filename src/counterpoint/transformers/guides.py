"""A guide for each row, applied to two branches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from counterpoint.formulas import log_probs
from counterpoint.guide import Branch, Guide
from counterpoint.guiding import combined

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
        others = cond[:, None][:, :0] if negative_logits is None else log_probs(negative_logits)[:, None]  # (R, K, V)
        weights = [[] if negative_logits is None else [weight] for weight in self._weights]
        return combined(cond, others, weights, self._guides, [step] * len(self._guides))
