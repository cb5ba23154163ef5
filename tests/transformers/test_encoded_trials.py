"""Encoder-decoders are tried with texts that are long enough for windows, relative positions and blocks to act."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from models.small import VOCAB, built
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BigBirdPegasusConfig,
    BigBirdPegasusForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import Seq2SeqLMOutput

from counterpoint.errors import UnsupportedError
from counterpoint.models.trials import LoopCall
from counterpoint.transformers import generate
from counterpoint.transformers.encoded_trials import encoded_trials

SIZES = {"d_model": 32, "vocab_size": VOCAB, "pad_token_id": 0, "decoder_start_token_id": 1, "eos_token_id": None}
DISTANCE = 128  # at which relative positions end


def _t5(cls: type[PreTrainedModel] = T5ForConditionalGeneration) -> PreTrainedModel:
    config = T5Config(d_kv=8, d_ff=64, num_layers=2, num_heads=4, relative_attention_max_distance=DISTANCE, **SIZES)
    return built(cls, config)


class Forgetful(T5ForConditionalGeneration):
    """Misreads its cache from the length on at which relative positions end."""

    def forward(self, *args: Any, **given: Any) -> Seq2SeqLMOutput:
        out = super().forward(*args, **given)
        cache = next((value for value in given.values() if hasattr(value, "get_seq_length")), None)
        ids = given.get("decoder_input_ids")
        if cache is not None and ids is not None and ids.shape[1] == 1:
            if cache.get_seq_length() > self.config.relative_attention_max_distance:
                out.logits = out.logits.flip(-1)
        return out


class Careless(T5ForConditionalGeneration):
    """Attends to padding where a batch of the encoder's texts is longer than relative positions reach."""

    def forward(self, *args: Any, encoder_outputs: Any = None, attention_mask: Any = None, **given: Any) -> Any:
        if attention_mask is not None and attention_mask.shape[1] > self.config.relative_attention_max_distance:
            attention_mask = torch.ones_like(attention_mask)
        return super().forward(*args, encoder_outputs=encoder_outputs, attention_mask=attention_mask, **given)


def test_a_cache_that_fails_after_a_hundred_tokens_is_found() -> None:
    assert encoded_trials(_t5()).continues()
    assert not encoded_trials(_t5(Forgetful)).continues()
    with pytest.raises(UnsupportedError, match="writes something else with its cache"):
        _guided(_t5(Forgetful), [(5, 6, 7)], (8, 9))


@pytest.mark.parametrize(("cls", "padded"), [(T5ForConditionalGeneration, True), (Careless, False)])
def test_padding_is_tried_in_long_batches(cls: type[PreTrainedModel], padded: bool) -> None:
    trials = encoded_trials(_t5(cls))
    assert trials.writes(LoopCall(padded=False)) and trials.writes(LoopCall(padded=True)) is padded


def _bart() -> PreTrainedModel:
    layers = dict.fromkeys(("encoder_layers", "decoder_layers"), 2)
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    widths = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64)
    config = BartConfig(**layers, **heads, **widths, max_position_embeddings=64, bos_token_id=1, **SIZES)
    config.forced_eos_token_id = None
    return built(BartForConditionalGeneration, config)


@pytest.mark.parametrize(
    ("model", "kept", "refused"),
    [
        (_t5(), [1] * 6 + [0] * 2, None),
        (_t5(), [0] * 2 + [1] * 6, None),
        (_t5(), [1] * 3 + [0] * 2 + [1] * 3, "padding between .* pad them on the right"),
        (_bart(), [1] * 6 + [0] * 2, None),
        (_bart(), [0] * 2 + [1] * 6, "pad input_ids on the right"),  # its positions begin with the padding
        (_bart(), [0] + [1] * 3 + [0] + [1] * 3, "padding between .* pad them on the right"),
    ],
)
def test_padding_of_one_prompt_on_either_side(model: PreTrainedModel, kept: list[int], refused: str | None) -> None:
    mask, negative = torch.tensor([kept]), (8, 9)
    ids = torch.tensor([[7, 12, 9, 33, 21, 6, 40, 11]]) * mask
    if refused is not None:
        with pytest.raises(UnsupportedError, match=refused):
            _guided(model, ids.tolist(), negative, mask)
        return
    got = _guided(model, ids.tolist(), negative, mask)[0]
    assert got == _anew(model, tuple(ids[mask != 0].tolist()), negative, len(got))


def test_what_is_read_beside_a_long_text_leaves_its_attention_as_it_was() -> None:
    """Its encoder attends by blocks from 56 tokens on, and to everything for good once it has read a shorter text."""
    config = BigBirdPegasusConfig(
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, block_size=8, num_random_blocks=1, max_position_embeddings=256, bos_token_id=1, **SIZES,
    )  # fmt: skip
    model = built(BigBirdPegasusForConditionalGeneration, config)
    fresh = copy.deepcopy(model)
    prompt, negative = tuple((7 * at * at + 3) % 190 + 3 for at in range(100)), (8, 9, 40)
    for _ in range(2):
        got = _guided(model, [prompt], negative)[0]
        assert got == _anew(fresh, prompt, negative, len(got))
    short = copy.deepcopy(fresh)
    short.model.encoder.set_attention_type("original_full")
    assert got != _anew(short, prompt, negative, len(got))  # the difference tells in this text


def _guided(
    model: PreTrainedModel, prompts: list[Sequence[int]], negative: tuple[int, ...], mask: Tensor | None = None
) -> list[list[int]]:
    out = model.generate(
        input_ids=torch.tensor(prompts),
        attention_mask=torch.ones((len(prompts), len(prompts[0])), dtype=torch.long) if mask is None else mask,
        negative_prompt_ids=torch.tensor([negative]),
        guidance_scale=3.0,
        custom_generate=generate,
        max_new_tokens=8,
        do_sample=False,
    )
    return out[:, 1:].tolist()


@torch.no_grad()
def _anew(model: PreTrainedModel, prompt: tuple[int, ...], negative: tuple[int, ...], count: int) -> list[int]:
    written = [1]
    for _ in range(count):
        logprobs = []
        for text in (prompt, negative):
            out = copy.deepcopy(model)(
                input_ids=torch.tensor([text]), decoder_input_ids=torch.tensor([written]), use_cache=False
            )
            logprobs.append(out.logits[0, -1].log_softmax(-1))
        written.append(int((logprobs[1] + 3.0 * (logprobs[0] - logprobs[1])).argmax()))
    return written[1:]
