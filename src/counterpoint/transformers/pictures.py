"""Logits after histories that begin with whatever a processor makes: pictures, sounds, and the text around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.errors import PromptError
from counterpoint.models.caches import cache_of
from counterpoint.models.trials import abilities_of

#: a prompt by its number, and the tokens generated after it
History = tuple[int, tuple[int, ...]]


class InputHistories:
    """Continues prompts of any kind, each with a cache and positions of its own, as the model's own `generate` does.

    A call whose histories are those of the last one with a token each, in the same order, costs one token a row. Another
    order reorders the cache; anything else reads the prompts anew.

    Args:
        model: a model of transformers.
        inputs: of N prompts, as the model's processor makes them; padded on the left.

    Raises:
        PromptError: no `input_ids` of shape (N, L), or padding on the right.
    """

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
        self._model, self._inputs = model, dict(inputs)
        self.num_prompts = check_inputs(inputs)
        self._held: list[History] = []
        self._ids = torch.zeros((0, 0), dtype=torch.long)  # (R, L) prompts and what came after them
        self._kwargs: dict[str, Any] = {}
        self._state = abilities_of(model).own_state()

    def logits(self, histories: Sequence[History]) -> Tensor:
        """Logits of the token after each history. Histories of one prompt stand side by side. -> (R, V)."""
        with self._state.alone(), torch.no_grad():
            return self._logits(list(histories))

    def _logits(self, histories: list[History]) -> Tensor:
        places = {history: place for place, history in enumerate(self._held)}
        sources = [places.get((prompt, ids[:-1])) if ids else None for prompt, ids in histories]
        known = [source for source in sources if source is not None]
        if len(known) < len(sources) or not self._reorder(known):
            out = self._begin(histories)
        else:
            out = self._read([ids[-1:] for _, ids in histories])
        self._held = histories
        return out

    def _begin(self, histories: list[History]) -> Tensor:
        """Read the prompts, and what was generated after them."""
        self._state.forget()
        self._ids, self._kwargs = _prepared(self._model, self._inputs, len(histories) // self.num_prompts)
        generated = [ids for _, ids in histories]
        num_generated = len(generated[0])
        out = self._forward(self._ids.shape[1], num_next=num_generated or 1, first=True)
        return self._read(generated) if num_generated else out

    def _read(self, new: Sequence[tuple[int, ...]]) -> Tensor:
        self._ids = torch.cat([self._ids, torch.tensor(new, device=self._ids.device)], dim=1)
        return self._forward(len(new[0]), num_next=1)

    def _forward(self, num_new: int, *, num_next: int, first: bool = False) -> Tensor:
        """Read the last `num_new` ids of each row, and make room for the `num_next` after them."""
        inputs = self._model.prepare_inputs_for_generation(
            self._ids, next_sequence_length=None if first else num_new, is_first_iteration=first, **self._kwargs
        )
        out = self._model(**inputs, return_dict=True)
        self._kwargs = self._model._update_model_kwargs_for_generation(out, self._kwargs, num_new_tokens=num_next)
        return out.logits[:, -1]

    def _reorder(self, sources: list[int]) -> bool:
        """Whether the rows could be put into this order; those of one prompt have their masks and positions in common."""
        rows = list(range(len(self._held)))
        if sources == rows:
            return True
        cache = cache_of(self._kwargs)
        of_prompt = [prompt for prompt, _ in self._held]
        if len(sources) != len(rows) or cache is None or [of_prompt[source] for source in sources] != of_prompt:
            return False
        at = torch.tensor(sources, device=self._ids.device)
        cache.reorder_cache(at)
        self._ids = self._ids[at]
        return True


def check_inputs(inputs: object) -> int:
    """How many prompts there are in what a processor made.

    Raises:
        PromptError: it has no `input_ids` of shape (N, L), or pads them on the right.
    """
    given: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or 0 in ids.shape:
        raise PromptError("negative_inputs has no input_ids of shape (prompts, length); pass what the processor makes")
    mask = given.get("attention_mask")
    if mask is not None and not bool((mask[:, -1] != 0).all()):
        raise PromptError(
            "negative_inputs are padded on the right, where nothing can be continued; pad them on the left"
        )
    return len(ids)


def _prepared(model: PreTrainedModel, inputs: Mapping[str, Any], times: int) -> tuple[Tensor, dict[str, Any]]:
    """The ids and arguments that `generate` of the model begins its loop with, each prompt `times` times."""
    begun: dict[str, Any] = {}

    def keep(
        _model: object,
        input_ids: Tensor,
        logits_processor: object,
        stopping_criteria: object,
        generation_config: object,
        **kwargs: Any,
    ) -> Tensor:
        begun.update(ids=input_ids, kwargs=kwargs)
        return input_ids

    model.generate(
        **inputs,
        custom_generate=keep,
        do_sample=times > 1,
        num_return_sequences=times,
        num_beams=1,
        max_new_tokens=1,
        use_cache=True,
        cache_implementation="dynamic",
        guidance_scale=None,
    )
    return begun["ids"], begun["kwargs"]
