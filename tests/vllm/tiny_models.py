"""Tiny random models of real architectures, with a byte-level tokenizer and a chat template, saved to a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

EOS_ID = 256
VOCAB = 272
#: shows tools, and that a model shall not think; both are settled by fields and flags of vLLM's server
CHAT_TEMPLATE = (
    "{% for tool in tools or [] %}<{{ tool.function.name }}>{% endfor %}"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}(quiet) {% endif %}"
)


def config(architecture: str, context_len: int) -> PretrainedConfig:
    """The configuration of one of the architectures: llama, qwen3, gpt2."""
    shared = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": EOS_ID, "pad_token_id": None}
    if architecture == "gpt2":
        return GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=context_len, initializer_range=0.2, **shared)
    kind = {"llama": LlamaConfig, "qwen3": Qwen3Config}[architecture]
    return kind(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=context_len,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **shared,
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that every text and every grammar can be written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: token_id for token_id, character in enumerate(alphabet)}
    vocab["<end>"] = EOS_ID
    bytes_only = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<end>")
    made.chat_template = CHAT_TEMPLATE
    return made


def save(folder: Path, architecture: str, *, seed: int = 0, context_len: int = 256) -> Path:
    """Save a model with its tokenizer; the same bytes for the same arguments."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(architecture, context_len), dtype=torch.float32)
    model.generation_config.eos_token_id = EOS_ID
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
