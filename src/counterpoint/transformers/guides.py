"""A guide for each row, applied to two branches."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.errors import Failure, NothingLeftError
from counterpoint.formulas import NEG_INF, conditioned, log_probs
from counterpoint.guide import Branch, Guide, NoEffect, no_effect
from counterpoint.guiding import combined
from counterpoint.transformers.forms import RowForms

NEGATIVE = (Branch(None),)


class RowGuides:
    """The guides of a batch, row by row.

    Args:
        guides: one for each row.
        form: what every row keeps; None is no form.
    """

    def __init__(self, guides: Sequence[Guide], form: RowForms | None = None) -> None:
        self._guides, self._form = list(guides), form
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

    def apply(self, cond_logits: Tensor, negative_logits: Tensor | None, generated: Tensor) -> Tensor:
        """Guided log-probabilities in float32, of the branches conditioned on the form. (R, V), (R, V) -> (R, V).

        Args:
            negative_logits: None where `needs_negative` said no.
            generated: (R, step) of ids, those after the prompt.

        Raises:
            Failure: a branch's logits are no numbers, infinite, or all -inf.
        """
        step = generated.shape[1]
        both = [cond_logits] if negative_logits is None else [cond_logits, negative_logits]
        logits = torch.stack([logits.float() for logits in both], 1)  # (R, 1 + K, V)
        most = logits.amax(-1)
        if not bool(most.isfinite().all()):
            row, branch = (~most.isfinite()).nonzero()[0].tolist()
            raise Failure(
                f"the model's logits after {step} generated tokens hold NaN or infinity, or are all -inf (row {row}, "
                f"{'the negative' if branch else 'the prompt'}), so no token can be chosen; load it with dtype float32"
            )
        if self._form is None:
            logprobs = log_probs(logits)
        else:
            logprobs = conditioned(logits, self._form.allowed(generated, cond_logits))
            if bool((logprobs[:, 0].amax(-1) == NEG_INF).any()):
                raise NothingLeftError(
                    f"no token is left to choose after {step} generated ones: the model rules out every token that the "
                    "constraint allows; loosen it"
                )
        cond, others = logprobs[:, 0], logprobs[:, 1:]
        weights = [[] if negative_logits is None else [weight] for weight in self._weights]
        return combined(cond, others, weights, self._guides, [step] * len(self._guides))
