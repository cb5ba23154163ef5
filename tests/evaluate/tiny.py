"""Small models with random weights and a stateless oracle written without the package's formulas."""

from __future__ import annotations

import functools
import json

import torch
import transformers as hf

from counterpoint.guide import Guide
from counterpoint.models.model import Model

VOCAB = 96
IDS = {"vocab_size": VOCAB, "eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ARCHITECTURES = ("gpt2", "gemma3", "mamba")


@functools.cache
def tiny(name: str) -> Model:
    """A model of one architecture: learned positions, sliding windows, a recurrent state, and rotary positions."""
    torch.manual_seed(7)
    made = {
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(max_position_embeddings=64, **SMALL, **IDS)),
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **IDS)),
        "gemma3": lambda: hf.Gemma3ForCausalLM(
            hf.Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 6}, head_dim=8, sliding_window=8, **IDS)
        ),
        "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **IDS)),
    }[name]()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0, 0.25)
    return Model(made.float(), name=name)


@torch.inference_mode()
def next_probs(model: Model, context: list[int], continuation: list[int]) -> torch.Tensor:
    """The model's own probabilities (T + 1, V) in float64 of each token of the continuation and of the one after it,
    from one forward of the whole without a cache."""
    ids = torch.tensor([[*context, *continuation]], device=model.device)
    logits = model.hf(input_ids=ids, use_cache=False).logits[0, len(context) - 1 :]
    return torch.softmax(logits.double(), -1)


def guided_probs(cond: torch.Tensor, other: torch.Tensor | None, guide: Guide, step: int) -> torch.Tensor:
    """Section by section what a guide means, on float64 probabilities."""
    is_on = guide.start <= step and (guide.stop is None or step < guide.stop)
    if not is_on or -float((cond * cond.log()).sum()) < guide.gate:
        return cond
    push = guide.scale - 1
    if other is not None and guide.adaptive:
        middle = (cond + other) / 2
        push *= float(((cond * (cond / middle).log2()).sum() + (other * (other / middle).log2()).sum()) / 2)
    result = cond
    if other is not None:
        result = cond * (cond / other) ** push if guide.space == "log" else (cond + push * (cond - other)).clamp(min=0)
    result = result * (cond >= guide.plausibility * cond.max())
    return result / result.sum()


def write_jsonl(path, records) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)
