"""Small models with random weights and the bundled tokenizer, and the constrained answer by definition."""

import functools

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import counterpoint as cp
from counterpoint.constraints.vocabulary import vocabulary_of
from counterpoint.sampling import Sampling, draw, generator, processed

VOCAB = 4100  # a few more than the tokenizer has: ids that no constraint may allow
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": VOCAB, "eos_token_id": 1}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.25}
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL, **HEADS)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL, **HEADS, head_dim=8)),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1, initializer_range=0.25
        ),
    ),
    "mamba": (MambaForCausalLM, MambaConfig(**SMALL, state_size=4, initializer_range=0.25)),
}


@functools.cache
def tiny(name, seed=0):
    torch.manual_seed(seed)
    kind, config = KINDS[name]
    hf = kind(config).eval()
    hf.generation_config.eos_token_id = 1
    return cp.Model(hf, cp.load("bundled").tokenizer, name=f"a small {name}")


def fresh(constraint, model, output_ids):
    """The tokens that may follow, from a matcher that has seen nothing but these."""
    state = constraint.settled().made_for(vocabulary_of(model)).start()
    for token_id in output_ids:
        state.accept(token_id)
    bits = torch.zeros(model.vocab_size, dtype=torch.bool)
    packed = state.allowed()
    for token_id in range(model.vocab_size):
        bits[token_id] = bool(packed[token_id // 8] >> (token_id % 8) & 1)
    return bits, state.complete


@torch.inference_mode()
def by_definition(model, constraint, prompt, branches, weights, guide, sampling=None, *, seed=0, max_tokens=32):
    """Token ids: every branch read anew at each step, without a cache, and conditioned on a matcher made anew."""
    sampling, source, out = sampling or Sampling(temperature=0), generator(seed), []
    while len(out) < max_tokens and (not out or out[-1] != 1):
        allowed, _ = fresh(constraint, model, out)
        rows = [model.hf(torch.tensor([[*ids, *out]])).logits[0, -1].float() for ids in (prompt, *branches)]
        cond, *others = (row.masked_fill(~allowed, -torch.inf).log_softmax(-1) for row in rows)
        scores = cond
        if guide.active(len(out)) and (others or guide.plausibility):
            scale = 1 - sum(weights)
            if guide.space == "log":
                push = [w * (o - cond).nan_to_num(nan=0.0) for w, o in zip(weights, others)]
                scores = cond + sum(push)
            else:
                scores = (scale * cond.exp() + sum(w * o.exp() for w, o in zip(weights, others))).clamp(min=0).log()
                scores[~allowed] = -torch.inf
            if guide.plausibility:
                scores = scores.masked_fill(cond < cond.max() + torch.tensor(guide.plausibility).log(), -torch.inf)
            if scores.max() == -torch.inf or -float((cond.exp() * cond.clamp(min=-1e9)).sum()) < guide.gate:
                scores = cond
            scores = scores.log_softmax(-1)
        scores = processed(scores, sampling, prompt_ids=prompt, output_ids=out)
        out.append(draw(scores, sampling, source))
    return tuple(out)
