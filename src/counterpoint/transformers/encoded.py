"""Logits after decoder histories of an encoder-decoder model, whose negative prompt is what the encoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from counterpoint.models.caches import cache_argument, cache_of
from counterpoint.models.close import is_close

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
        width = max(map(len, texts))
        ids = torch.zeros((len(texts), width), dtype=torch.long, device=model.device)
        self._mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text, device=model.device)
            self._mask[row, : len(text)] = 1
        encoded = model.get_encoder()(input_ids=ids, attention_mask=self._mask, return_dict=True)
        self._states, self._output = (
            encoded.last_hidden_state,
            type(encoded),
        )  # some decoders ask for a field of their own
        self._number = {text: number for number, text in enumerate(texts)}
        self._held: list[tuple[TokenIds, TokenIds]] = []
        self._cache: Any = None

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


_TRIALS: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def continues_encoded(model: PreTrainedModel) -> bool:
    """Whether an encoder-decoder writes with its cache what it writes without; found out once, by a trial."""
    if model not in _TRIALS:
        _TRIALS[model] = _trial(model)
    return _TRIALS[model]


@torch.no_grad()
def _trial(model: PreTrainedModel) -> bool:
    """Two texts of other lengths, continued by a few tokens, against the decoder's own forward of each alone."""
    texts = [(3, 5, 4, 6), (7, 4)]
    written = [(2, 5, 3, 6, 4), (2, 4, 6, 3, 5)]
    try:
        read = EncodedHistories(model, texts)
        for length in range(1, len(written[0]) + 1):
            got = read.logits([(text, ids[:length]) for text, ids in zip(texts, written)])
            for row, (text, ids) in enumerate(zip(texts, written)):
                alone = model(
                    input_ids=torch.tensor([text], device=model.device),
                    decoder_input_ids=torch.tensor([ids[:length]], device=model.device),
                    use_cache=False,
                    return_dict=True,
                )
                if not is_close(got[row], alone.logits[0, -1]):
                    return False
        return _writes_alike(model, texts)
    except Exception:  # any failure of the trial means that this model's forward is of another kind
        return False


def _writes_alike(model: PreTrainedModel, texts: Sequence[TokenIds]) -> bool:
    """Whether transformers' own loop over padded texts has the logits of the uncached forward of each alone."""
    own, width = model.generation_config, max(map(len, texts))
    settings = GenerationConfig(
        max_new_tokens=5,
        do_sample=False,
        decoder_start_token_id=own.decoder_start_token_id,
        bos_token_id=own.bos_token_id,
        pad_token_id=0 if own.pad_token_id is None else own.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    out = model.generate(
        input_ids=torch.tensor([text + (0,) * (width - len(text)) for text in texts], device=model.device),
        attention_mask=torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts], device=model.device),
        generation_config=settings,
        eos_token_id=None,
    )
    start = out.sequences.shape[1] - len(out.logits)
    for row, text in enumerate(texts):
        for step, logits in enumerate(out.logits):
            alone = model(
                input_ids=torch.tensor([text], device=model.device),
                decoder_input_ids=out.sequences[row : row + 1, : start + step],
                use_cache=False,
                return_dict=True,
            )
            if not is_close(logits[row], alone.logits[0, -1]):
                return False
    return True
