"""transformers' own loops with both branches in one forward: what the loop takes for the model reads both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel
from transformers.generation import CandidateGenerator
from transformers.modeling_outputs import CausalLMOutputWithPast

from counterpoint.models.caches import CAUSAL_FIELD, cache_of
from counterpoint.models.padded import PaddedHistories
from counterpoint.transformers.caller import is_drafting
from counterpoint.transformers.guides import RowGuides
from counterpoint.transformers.histories import Histories
from counterpoint.transformers.negatives import TokenIds


class NeedsStates(Exception):
    """Drafts are made from what the model's own forward returns or keeps, which a `JointModel` has not."""


class JointModel:
    """Stands for a model in a loop of transformers, for rows of one length that begin with their prompts.

    A forward answers from the ids alone, so that beams may be reordered and drafts rolled back: the loop's cache is handed
    through and stays empty. Everything but the forward is the model's own.

    Args:
        read: empty histories of the model; not padded ones where drafts are checked.
        prompts: of each row, without padding.
        negatives: of each row.
        prompt_len: tokens of the prompt in the loop's ids, with padding.
        guides: of each row.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        read: Histories | PaddedHistories,
        *,
        prompts: Sequence[TokenIds],
        negatives: Sequence[TokenIds],
        prompt_len: int,
        guides: RowGuides,
    ) -> None:
        self.model, self._read, self._guides = model, read, guides
        self._prompts, self._negatives, self._prompt_len = prompts, negatives, prompt_len
        self._first = 0  # how many ids come before what the first column of `_other` predicts
        self._other: Tensor | None = None  # (R, K, V)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def _prefill(
        self, input_ids: Tensor, _config: object, model_kwargs: dict[str, Any], is_first_iteration: bool = True
    ) -> CausalLMOutputWithPast:
        return self(**self.prepare_inputs_for_generation(input_ids, **model_kwargs))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, **given: Any
    ) -> dict[str, Any]:
        """All ids, also those that the loop takes to be cached. A drafting loop sets `logits_to_keep`."""
        return {"input_ids": input_ids, "logits_to_keep": 1, CAUSAL_FIELD: cache_of(given)}

    def __call__(
        self, input_ids: Tensor, *, logits_to_keep: int, return_dict: bool = True, **given: Any
    ) -> CausalLMOutputWithPast:
        """Logits of the conditional branch, and those of the negative for `guidance`. -> (R, K, V)."""
        generated = [tuple(row) for row in input_ids[:, self._prompt_len :].tolist()]
        asked = [prompt + new for prompt, new in zip(self._prompts, generated)]
        self._first = input_ids.shape[1] - logits_to_keep + 1
        steps = range(self._first - self._prompt_len, input_ids.shape[1] - self._prompt_len + 1)
        needs_negative = any(self._guides.needs_negative(step) for step in steps)
        if needs_negative:
            asked += [negative + new for negative, new in zip(self._negatives, generated)]
        logits = (
            self._read.logits(asked)[:, None] if logits_to_keep == 1 else self._read.last_logits(asked, logits_to_keep)
        )
        logits = logits.to(input_ids.device)
        self._other = logits[len(generated) :].float() if needs_negative else None
        return CausalLMOutputWithPast(logits=logits[: len(generated)], **{CAUSAL_FIELD: cache_of(given)})

    def _get_candidate_generator(self, **arguments: Any) -> CandidateGenerator:
        candidates = self.model._get_candidate_generator(**arguments)
        if candidates.requires_model_outputs:
            raise NeedsStates
        return candidates

    def guidance(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guided log-probabilities after the ids of the last forward, or a beginning of them. -> (R, V)."""
        length = input_ids.shape[1]
        other = None if self._other is None else self._other[:, length - self._first]
        return self._guides.apply(scores, other, input_ids[:, self._prompt_len :])


class JointGuidance(LogitsProcessor):
    """The guidance of a `JointModel`, first in the list of processors. What drafts are looked at with stays unguided."""

    def __init__(self, model: JointModel) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores if is_drafting() else self._model.guidance(input_ids, scores)
