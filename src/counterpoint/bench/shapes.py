"""Models of well-known configurations with random weights: their speed is that of trained ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from counterpoint.models.int8 import to_int8
from counterpoint.models.model import Model

SEED = 0
_NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}


def _gpt2_124m(context_len: int) -> PreTrainedConfig:
    return GPT2Config(n_positions=context_len, **_NO_ENDS)


def _smollm2_135m(context_len: int) -> PreTrainedConfig:
    """Deep and narrow: 30 layers."""
    return LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=context_len, tie_word_embeddings=True, **_NO_ENDS,
    )  # fmt: skip


def _llama_05b(context_len: int) -> PreTrainedConfig:
    """Llama's layers in the sizes of Qwen2's 0.5B, with its large vocabulary."""
    return LlamaConfig(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=context_len, tie_word_embeddings=True, **_NO_ENDS,
    )  # fmt: skip


def _llama_8b(context_len: int) -> PreTrainedConfig:
    """The sizes of Llama 3's 8B, for a GPU."""
    return LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=context_len, tie_word_embeddings=False, **_NO_ENDS,
    )  # fmt: skip


SHAPES: dict[str, Callable[[int], PreTrainedConfig]] = {
    "gpt2-124m": _gpt2_124m,
    "smollm2-135m": _smollm2_135m,
    "llama-0.5b": _llama_05b,
    "llama-8b": _llama_8b,
}


def random_model(
    shape: str,
    dtype: str,
    *,
    compile: bool | Literal["auto"] = "auto",
    weights: str | None = None,
    context_len: int = 1024,
    device: torch.device | str = "cpu",
) -> Model:
    """A model of one of `SHAPES` with random weights, seeded.

    Args:
        dtype, compile, weights: as of `load`; weights is "int8" or None.
        context_len: how many positions it has.
        device: where its weights are drawn.
    """
    torch.manual_seed(SEED)
    with torch.device(device):
        hf = AutoModelForCausalLM.from_config(SHAPES[shape](context_len), dtype=getattr(torch, dtype))
    if weights == "int8":
        to_int8(hf)
    return Model(hf, name=shape, compile=compile)
