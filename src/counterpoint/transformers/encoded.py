"""Logits after decoder histories of an encoder-decoder model, whose negative prompt is what the encoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.models.caches import cache_argument, cache_of
from counterpoint.models.traces import unswitched

TokenIds = tuple[int, ...]


class EncodedHistories:
    """Decoder histories, each under one of the encoder's texts. All histories of one call have one length.

    A call whose histories extend those of the last one by a token, in any order, uses the cache; another starts anew.

    Args:
        model: an encoder-decoder model of transformers.
        texts: the token ids of each text for the encoder, each once.
    """

    def __init__(self, model: PreTrainedModel, texts: Sequence[TokenIds]) -> None:
        self._model, self._cache_name = model, cache_argument(model.forward)
        lens = torch.tensor([len(text) for text in texts], device=model.device)
        self._mask = (torch.arange(int(lens.max()), device=model.device) < lens[:, None]).long()
        # Texts of other lengths are encoded one by one: where attention is by blocks, padding changes it.
        groups = [texts] if len(set(map(len, texts))) == 1 else [[text] for text in texts]
        with unswitched(model):
            encoded = [self._encode(group) for group in groups]
        self._output = type(encoded[0])  # some decoders ask for a field of their own
        parts = [part.last_hidden_state for part in encoded]
        width = self._mask.shape[1]
        self._states = torch.cat([torch.nn.functional.pad(p, (0, 0, 0, width - p.shape[1])) for p in parts])
        self._number = {text: number for number, text in enumerate(texts)}
        self._held: list[tuple[TokenIds, TokenIds]] = []
        self._cache: Any = None

    def _encode(self, texts: Sequence[TokenIds]) -> Any:
        ids = torch.tensor(texts, device=self._model.device)
        return self._model.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True)

    def logits(self, keys: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        """Logits of the token after each history. R pairs of a text and decoder ids -> (R, V)."""
        places = {key: place for place, key in enumerate(self._held)}
        sources = [places.get((text, ids[:-1])) for text, ids in keys]
        if self._cache is None or None in sources:
            self._cache = None
            ids = torch.tensor([ids for _, ids in keys], device=self._model.device)
        else:
            if sources != list(range(len(self._held))):
                self._cache.reorder_cache(torch.tensor(sources, device=self._model.device))
            ids = torch.tensor([ids[-1:] for _, ids in keys], device=self._model.device)
        texts = [self._number[text] for text, _ in keys]
        out = self._model(
            encoder_outputs=self._output(last_hidden_state=self._states[texts]),
            attention_mask=self._mask[texts],
            decoder_input_ids=ids,
            use_cache=True,
            return_dict=True,
            **{self._cache_name: self._cache},
        )
        self._held, self._cache = list(keys), cache_of(out, self._cache_name)
        return out.logits[:, -1]
