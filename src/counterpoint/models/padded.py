"""Logits after token histories that grow together, in one padded batch with the model's own cache.

For models whose rows can't be of different lengths in one forward, and that overlook padding on the left.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.models.caches import cache_argument, cache_of
from counterpoint.models.devices import input_device
from counterpoint.models.ids import num_ids
from counterpoint.models.linears import Linears

TokenIds = tuple[int, ...]


class PaddedHistories:
    """Token histories, a row of the batch for each.

    A call whose histories extend those of the last one by a token, in any order, uses the cache; another starts anew.

    Args:
        model: a causal model of transformers; `counterpoint.models.trials` finds out whether padding misleads it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._linears = Linears(model, compiled=True, keeps_layout=True)
        takes = inspect.signature(model.forward).parameters
        self._cache_name = cache_argument(model.forward)
        self._num_ids = num_ids(model)
        self._takes_positions = "position_ids" in takes
        self._held: list[TokenIds] = []
        self._mask = torch.empty(0)
        self._cache: Any = None

    def logits(self, histories: Sequence[TokenIds]) -> Tensor:
        """Logits of the token after each history. R histories -> (R, V), in the model's dtype."""
        wanted = list(dict.fromkeys(histories))  # equal ones are read once, and their logits are equal to the last bit
        places = {history: place for place, history in enumerate(wanted)}
        logits = self._read(wanted)
        return logits if len(wanted) == len(histories) else logits[[places[history] for history in histories]]

    def _read(self, histories: list[TokenIds]) -> Tensor:
        places = {history: place for place, history in enumerate(self._held)}
        sources = [places.get(history[:-1]) for history in histories]
        device = input_device(self._model)
        if self._cache is None or None in sources:
            self._cache, width = None, max(map(len, histories))
            gaps = [width - len(history) for history in histories]
            ids = torch.tensor([(0,) * gap + history for gap, history in zip(gaps, histories)], device=device)
            self._mask = torch.tensor([(0,) * gap + (1,) * (width - gap) for gap in gaps], device=device)
        else:
            if sources != list(range(len(self._held))):
                self._cache.reorder_cache(torch.tensor(sources, device=device))
                self._mask = self._mask[sources]
            ids = torch.tensor([history[-1:] for history in histories], device=device)
            self._mask = torch.cat([self._mask, self._mask.new_ones((len(histories), 1))], dim=1)
        logits = self._call(ids)
        self._held = histories
        return logits

    def _call(self, ids: Tensor) -> Tensor:
        arguments: dict[str, Any] = {"attention_mask": self._mask, "use_cache": True}
        if self._takes_positions:
            arguments["position_ids"] = (self._mask.cumsum(-1) - 1).clamp(min=0)
        if self._cache is not None:
            arguments |= {self._cache_name: self._cache, "next_sequence_length": ids.shape[1]}
        arguments = self._model.prepare_inputs_for_generation(ids, is_first_iteration=self._cache is None, **arguments)
        head = self._model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _module, args: (args[0][:, -1:], *args[1:]))  # no (R, L, V) logits
        try:
            with self._linears.joint():
                out = self._model(**arguments)
        finally:
            hook.remove()
        self._cache = cache_of(out, self._cache_name)
        return out.logits[:, -1, : self._num_ids]
