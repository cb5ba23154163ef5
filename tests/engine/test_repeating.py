"""In less than float32 a request repeats to the bit whatever was kept; with `repeatable`, whatever runs beside it too."""

import dataclasses
import random

import gguf
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import counterpoint as cp
from counterpoint.engine import Engine, prepare
from counterpoint.models.blocks import BlockLinear
from counterpoint.models.int8 import to_int8
from counterpoint.models.kernels import blocks, few_rows
from counterpoint.models.model import Model

SIZES = {"vocab_size": 300, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "eos_token_id": 299}


def make(kind, *, int8=False):
    torch.manual_seed(3)
    if kind in ("llama", "blocks"):
        hf = LlamaForCausalLM(
            LlamaConfig(**SIZES, intermediate_size=256, num_key_value_heads=2, initializer_range=0.2, bos_token_id=0)
        )
    elif kind == "mixtral":
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
        hf = MixtralForCausalLM(
            MixtralConfig(**SIZES, **experts, intermediate_size=128, num_key_value_heads=2, initializer_range=0.2)
        )
    elif kind == "qwen3":
        hf = Qwen3ForCausalLM(
            Qwen3Config(**SIZES, intermediate_size=256, num_key_value_heads=2, head_dim=32, initializer_range=0.2)
        )
    else:
        hf = GPT2LMHeadModel(
            GPT2Config(vocab_size=300, n_embd=128, n_layer=3, n_head=4, n_positions=1024, initializer_range=0.2, eos_token_id=299, bos_token_id=0)
        )  # fmt: skip
    hf = hf.to(torch.bfloat16)
    if int8:
        to_int8(hf)
    if kind == "blocks":
        to_int4(hf)
    return Model(hf, None, name=kind, compile="auto")


def to_int4(hf):
    """The blocks of four bits that GGUF files hold."""
    for layer in hf.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    raw = gguf.quantize(linear.weight.detach().float().numpy(), gguf.GGMLQuantizationType.Q4_0)
                    setattr(parent, name, BlockLinear(blocks.laid(torch.from_numpy(raw), "Q4_0"), "Q4_0"))


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def model(request):
    return make(request.param)


def requests(model, count, seed):
    """Prompts of all lengths around blocks, with shared beginnings, negatives, samples; greedy and seeded."""
    rng = random.Random(seed)
    shared = [rng.randrange(290) for _ in range(200)]
    made = []
    for number in range(count):
        prompt = shared[: rng.choice([0, 30, 64, 100, 200])] + [rng.randrange(290) for _ in range(rng.randint(1, 90))]
        negative = shared[: rng.choice([0, 70, 130])] + [rng.randrange(290) for _ in range(rng.randint(1, 40))]
        guide = {} if number % 3 == 0 else {"negative": negative, "guide": cp.Guide(scale=1.0 + 0.5 * (number % 4 + 1))}
        made.append(
            prepare(
                model, prompt, **guide, max_tokens=rng.randint(3, 12), temperature=number % 2, seed=number,
                n=1 + number % 3 // 2, logprobs=2, ignore_eos=True,
            )
        )  # fmt: skip
    return made


def run(engine, several):
    """All of them at once; for each its tokens and their log-probabilities, to the bit."""
    ids = [engine.add(request) for request in several]
    done = {}
    for progress in engine.run():
        if progress.completion is not None:
            done[progress.request_id, progress.index] = progress.completion
    return [
        [(done[i, k].token_ids, [(t.logprob, t.top) for t in done[i, k].logprobs]) for k in range(request.num_samples)]
        for i, request in zip(ids, several)
    ]


def kept(engine):
    return engine._store.num_tokens


def test_an_idle_engine_repeats_to_the_bit(model):
    engine, several = Engine(model, prefix_tokens=4096, pauses=False), requests(model, 24, seed=1)
    first = [run(engine, [one]) for one in several]
    assert kept(engine) > 0
    again = [run(engine, [one]) for one in several]
    assert again == first
    order = random.Random(2).sample(range(24), 24)
    assert [run(engine, [several[i]]) for i in order] == [first[i] for i in order]
    fresh = [run(Engine(model, prefix_tokens=64, pauses=False, idle_prefill_tokens=64), [one]) for one in several[:8]]
    assert fresh == first[:8]


def test_what_is_kept_is_used(model):
    engine = Engine(model, prefix_tokens=4096, pauses=False)
    request = prepare(model, list(range(1, 200)), max_tokens=2, temperature=0)
    shared = []
    for _ in range(2):
        engine.add(request)
        shared += [p.completion.usage.shared_tokens for p in engine.run() if p.completion]
    assert shared == [0, 192]


def test_samples_of_one_prompt_share_all_of_it(model):
    engine = Engine(model, prefix_tokens=4096, pauses=False)
    engine.add(prepare(model, list(range(1, 100)), max_tokens=3, temperature=1, seed=0, n=4))
    done = [p.completion for p in engine.run() if p.completion]
    assert sorted(c.usage.shared_tokens for c in done) == [0, 99, 99, 99]


@pytest.mark.skipif(not few_rows.is_available(), reason="no compiler for the kernels")
@pytest.mark.parametrize(
    "kind, int8",
    [("llama", False), ("llama", True), ("gpt2", False), ("qwen3", True), ("blocks", False), ("mixtral", False)],
)
def test_repeatable_is_the_same_alone_and_among_others(kind, int8):
    model = make(kind, int8=int8)
    several = requests(model, 17, seed=5)
    alone = [run(Engine(model, repeatable=True), [one])[0] for one in several]
    # No kernel of ours multiplies all of these in one order for any number of rows: they write one by one.
    assert (model.new_rows().most_alike <= 1) == (int8 or kind in ("blocks", "mixtral"))
    together = Engine(model, repeatable=True, prefix_tokens=2048, prefill_tokens=100)
    assert run(together, several) == alone
    assert run(together, several[::-1]) == alone[::-1]
    assert run(Engine(model, repeatable=True, draft_tokens=3), several[:6]) == alone[:6]
    by_call = cp.generate(
        model, [list(one.prompt_ids) for one in several], max_tokens=4, temperature=0, repeatable=True
    )
    for one, together in zip(several, by_call):
        assert (
            cp.generate(model, list(one.prompt_ids), max_tokens=4, temperature=0, repeatable=True).token_ids
            == together.token_ids
        )


def test_without_it_rows_together_round_otherwise():
    """What `repeatable` is for: on this model the sums of rows together differ from those of a row alone."""
    model = make("llama")
    several = [dataclasses.replace(one, seed=7) for one in requests(model, 40, seed=6)]
    alone = [run(Engine(model), [one])[0] for one in several]
    assert run(Engine(model), several) != alone
