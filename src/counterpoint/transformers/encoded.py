"""Logits after decoder histories of an encoder-decoder model, whose negative prompt is what the encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.models.caches import cache_argument, cache_of
from counterpoint.models.close import is_close
from counterpoint.models.trials.own_loop import LoopCall, Written

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


_TRIALS: WeakKeyDictionary[PreTrainedModel, dict[LoopCall | None, bool]] = WeakKeyDictionary()
# Two texts of other lengths for the encoder, and what the decoder has written after each.
READ, WRITTEN = [(3, 5, 4, 6), (7, 4)], [(2, 5, 3, 6, 4), (2, 4, 6, 3, 5)]
NEW = 5  # tokens


def continues_encoded(model: PreTrainedModel) -> bool:
    """Whether an encoder-decoder predicts with its cache what it predicts without; found out once, by a trial."""
    return _ask(model, None, lambda: _continues(model))


def writes_encoded(model: PreTrainedModel, call: LoopCall) -> bool:
    """Whether transformers' own loop is right on calls of this kind; found out once for each, by a trial."""
    return _ask(model, call, lambda: _writes(model, call))


def _ask(model: PreTrainedModel, what: LoopCall | None, trial: Callable[[], bool]) -> bool:
    known = _TRIALS.setdefault(model, {})
    if what not in known:
        try:
            with torch.no_grad():
                known[what] = trial()
        except Exception:  # any failure of the trial means that this model's forward is of another kind
            known[what] = False
    return known[what]


def _continues(model: PreTrainedModel) -> bool:
    read = EncodedHistories(model, READ)
    for length in range(1, len(WRITTEN[0]) + 1):
        got = read.logits([(text, ids[:length]) for text, ids in zip(READ, WRITTEN)])
        if not all(is_close(got[row], _alone(model, row, ids[:length])) for row, ids in enumerate(WRITTEN)):
            return False
    return True


def _writes(model: PreTrainedModel, call: LoopCall) -> bool:
    own, texts = model.generation_config, READ[: call.num_rows]
    width = max(map(len, texts))
    pad = 0 if own.pad_token_id is None else own.pad_token_id
    out = model.generate(
        input_ids=torch.tensor([text + (pad,) * (width - len(text)) for text in texts], device=model.device),
        attention_mask=torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts], device=model.device),
        generation_config=call.settings(
            NEW, decoder_start_token_id=own.decoder_start_token_id, bos_token_id=own.bos_token_id, pad_token_id=pad
        ),
        eos_token_id=None,
    )
    start = out.sequences.shape[1] - len(out.logits)
    rows = [tuple(row) for row in out.sequences.tolist()]
    written = Written(rows, [start] * len(rows), list(torch.stack(out.logits, dim=1)))
    return written.first_difference(lambda at, got, ids, _: is_close(got, _alone(model, at, ids))) is None


def _alone(model: PreTrainedModel, number: int, written: TokenIds) -> Tensor:
    """Logits (V,) after what was written for a text, from one forward without a cache."""
    return model(
        input_ids=torch.tensor([READ[number]], device=model.device),
        decoder_input_ids=torch.tensor([written], device=model.device),
        use_cache=False,
        return_dict=True,
    ).logits[0, -1]
