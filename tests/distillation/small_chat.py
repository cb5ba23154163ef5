"""A tiny chat model whose adapter learns something within a second: bytes as tokens, ChatML, random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from contexts.chat_templates import CHATML, byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import counterpoint as cp

COLOURS = "red blue green black white grey pink brown gold navy teal lime plum rust sand rose jade onyx".split()
QUESTIONS = [f"What is {colour}?" for colour in COLOURS]
SYSTEM, OPPOSITE = "Be kind.", "Be rude."


def small_chat(seed: int = 0) -> cp.Model:
    """Weights of standard deviation 0.1, the same for the same seed."""
    tokenizer = byte_tokenizer(CHATML)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
        )  # fmt: skip
        hf = LlamaForCausalLM(config)
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return cp.Model(hf, tokenizer, name="small chat", compile=False)


def saved(folder: Path, seed: int = 0) -> Path:
    """The same as a folder."""
    model = small_chat(seed)
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder
