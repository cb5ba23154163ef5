"""A guide for each row, applied to two branches."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from counterpoint.formulas import log_probs
from counterpoint.guide import Branch, Guide, NoEffect, no_effect
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

    def no_effect(
        self, negatives: Sequence[Hashable], prompts: Sequence[Hashable], *, is_given: bool, **limits: Any
    ) -> NoEffect | None:
        """Why guidance can change no row; None where it can change one, or none is asked for.

        Args:
            negatives, prompts: what each row's branches read.
            is_given: whether somebody gave the negatives.
            limits: the keywords of `guide.no_effect`.
        """
        verdicts = []
        for guide, weight, negative, prompt in zip(self._guides, self._weights, negatives, prompts, strict=True):
            # The default branch is asked for by a scale; at a scale of 1 there is none.
            weights, contexts = ([weight], [negative]) if is_given or weight else ([], [])
            verdicts.append(no_effect(guide, weights, contexts, prompt, **limits))
        return verdicts[0] if all(verdicts) else None

    def apply(self, cond_logits: Tensor, negative_logits: Tensor | None, step: int) -> Tensor:
        """Guided log-probabilities in float32. (R, V), (R, V) -> (R, V); None where `needs_negative` said no."""
        cond = log_probs(cond_logits)
        others = cond[:, None][:, :0] if negative_logits is None else log_probs(negative_logits)[:, None]  # (R, K, V)
        weights = [[] if negative_logits is None else [weight] for weight in self._weights]
        return combined(cond, others, weights, self._guides, [step] * len(self._guides))
