"""A model with a vector writes what a stateless loop writes whose layers are hooked by hand."""

import gc

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from gguf import GGMLQuantizationType as Kind
from models import small
from models.gguf.written import ARCHITECTURES as WRITTEN
from models.gguf.written import model_and_file

import counterpoint as cp
from counterpoint.contexts import OtherModel
from counterpoint.errors import GuideError, UnsupportedError, UsageError
from counterpoint.models.kernels import build
from counterpoint.models.layers import layers_of
from counterpoint.models.rows import Feed

needs_compiler = pytest.mark.skipif(not build.has_compiler(), reason="no C compiler")

# Longer than the windows of mistral and gemma3, so that they act.
PROMPTS = [[1, 5, 9, 17, 40, 7], [1, 66, 3], [1, 80, 2, 33, 21, 9, 14, 15, 16, 77, 52, 31, 8]]
GREEDY = {"temperature": 0, "ignore_eos": True, "max_tokens": 14}
LISTS = {"gpt2": "transformer.h", "bloom": "transformer.h", "mamba": "backbone.layers", "rwkv": "rwkv.blocks"}
NAMES = ("llama", "gpt2", "qwen3", "gemma3", "mistral", "mixtral", "bloom", "mamba", "bamba", "jamba", "rwkv")


def layer_list(hf, name):
    return hf.get_submodule(LISTS.get(name, "model.layers"))


def num_hooks(hf):
    return sum(len(module._forward_hooks) for module in hf.modules())


def make_vector(hf, name, seed=0, size=1.0):
    count, width = len(layer_list(hf, name)), hf.config.get_text_config().hidden_size
    source = torch.Generator().manual_seed(seed)
    return cp.Vector({n: size * torch.randn(width, generator=source) for n in range(count)})


@torch.inference_mode()
def logprobs(hf, name, ids, vector=None, strength=1.0):
    """The truth: the whole text read anew, each layer's output changed by a hook of the test's own."""
    handles = []
    for number, layer in enumerate(layer_list(hf, name)):
        if vector is not None and number in vector.directions:

            def hook(_module, _args, out, number=number):
                added = strength * vector.directions[number].to(hf.device)
                states = out[0] if isinstance(out, tuple) else out
                states = states + added.to(states.dtype)
                return (states, *out[1:]) if isinstance(out, tuple) else states

            handles.append(layer.register_forward_hook(hook))
    try:
        return hf(torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


def loop(hf, name, prompt, branches, num_tokens=14):
    """Greedy tokens of weighted branches [(weight, context, vector, strength)], and each choice's margin."""
    histories, tokens, margins = [list(context) for _, context, _, _ in branches], [], []
    for _ in range(num_tokens):
        read = [logprobs(hf, name, ids, v, s) for ids, (_, _, v, s) in zip(histories, branches)]
        best = sum(w * row for (w, *_), row in zip(branches, read)).topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        for ids in histories:
            ids.append(tokens[-1])
    return tokens, margins


def assert_same(got, want):
    tokens, margins = want
    for step, (a, b) in enumerate(zip(got, tokens, strict=True)):
        if a != b:
            assert margins[step] < 1e-4, f"step {step}: {a} instead of {b}, whose margin is {margins[step]}"
            return


@pytest.mark.parametrize("name", NAMES)
def test_as_the_prompts_model_and_as_a_branch(name):
    hf = ARCHITECTURES[name].model()
    model, vector = cp.Model(hf, name=name), make_vector(hf, name)
    steered = model.with_vector(vector, 1.5)
    done = cp.generate(steered, PROMPTS, **GREEDY)
    assert any(list(d.token_ids) != loop(hf, name, p, [(1.0, p, None, 0)])[0] for p, d in zip(PROMPTS, done))
    for prompt, completion in zip(PROMPTS, done):
        assert_same(completion.token_ids, loop(hf, name, prompt, [(1.0, prompt, vector, 1.5)]))
    # Pulled towards what the vector makes of it: one row without, one with it.
    branches = [cp.Branch(OtherModel(steered), 0.6)]
    done = cp.generate(model, PROMPTS[0], branches=branches, **GREEDY)
    want = loop(hf, name, PROMPTS[0], [(0.4, PROMPTS[0], None, 0), (0.6, PROMPTS[0], vector, 1.5)])
    assert_same(done.token_ids, want)


@pytest.mark.parametrize("name", ["llama", "mixtral", "mamba"])
def test_rows_of_one_batch_have_different_vectors(name):
    """Each request against the same context under another vector, with another strength, beside one without any."""
    hf = ARCHITECTURES[name].model()
    model = cp.Model(hf, name=name)
    one, two = make_vector(hf, name, 1), make_vector(hf, name, 2)
    given = [(one, 1.0), (two, -0.7), (one, 0.3), (None, 1.0)]
    branches = [[cp.Branch(OtherModel(model.with_vector(v, s)), -0.5)] for v, s in given[:3]]
    branches.append([cp.Branch([1, 9, 9], -0.5)])
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[2], PROMPTS[0]]
    done = cp.generate(model, prompts, branches=branches, **GREEDY)
    for (v, s), prompt, completion in zip(given, prompts, done):
        other = (-0.5, prompt, v, s) if v is not None else (-0.5, [1, 9, 9], None, 0)
        assert_same(completion.token_ids, loop(hf, name, prompt, [(1.5, prompt, None, 0), other]))


def test_strength_0_is_the_plain_model_to_the_bit():
    hf = ARCHITECTURES["llama"].model()
    model, vector = cp.Model(hf), make_vector(hf, "llama")
    assert model.with_vector(vector, 0) is model and model.with_vector(vector, -0.0) is model
    assert model.with_vector(vector, 2.0).with_vector(None) is model
    assert model.with_vector(vector, 2.0).with_vector(vector, 0.0) is model
    before, hooks = hf(torch.tensor([PROMPTS[0]])).logits, num_hooks(hf)
    cp.generate(model.with_vector(vector, 2.0), PROMPTS[0], **GREEDY)
    assert torch.equal(hf(torch.tensor([PROMPTS[0]])).logits, before)
    assert num_hooks(hf) == hooks
    compiled = cp.Model(hf, compile=True)
    assert compiled.with_vector(vector, 0) is compiled


def test_samples_drafts_and_forks():
    """n samples fork one prompt; guesses read several tokens a row; a draft model without the vector guesses wrong."""
    hf = ARCHITECTURES["llama"].model()
    model, vector = cp.Model(hf), make_vector(hf, "llama")
    steered = model.with_vector(vector, 1.5)
    options = {"max_tokens": 20, "n": 3, "seed": 4, "ignore_eos": True}
    want = [done.token_ids for done in cp.generate(steered, PROMPTS[0], **options)]
    plain = [done.token_ids for done in cp.generate(model, PROMPTS[0], **options)]
    assert want != plain and len(set(want)) > 1
    for more in ({"draft_tokens": 4}, {"draft_tokens": 4, "draft_model": model}, {"max_rows": 1}):
        assert [done.token_ids for done in cp.generate(steered, PROMPTS[0], **options, **more)] == want
    branch = [cp.Branch(OtherModel(steered), -1.0)]
    options = {**GREEDY, "branches": branch}
    want = cp.generate(model, PROMPTS[0], **options).token_ids
    assert cp.generate(model, PROMPTS[0], draft_tokens=3, draft_ahead=True, **options).token_ids == want


def test_kept_beginnings_are_not_mixed_up():
    """One engine, one long prompt, with a branch under a vector, under another one, and without: each as if alone."""
    hf = ARCHITECTURES["llama"].model()
    model = cp.Model(hf)
    one, two = make_vector(hf, "llama", 1), make_vector(hf, "llama", 2)
    prompt = [1, *range(10, 60)]
    engine = cp.Engine(model, prefix_tokens=4096)
    wanted, got = [], []
    for vector, strength in [(one, 1.0), (two, 1.0), (one, 1.0), (one, -1.0), (None, 1.0)]:
        other = OtherModel(model.with_vector(vector, strength)) if vector else [1, *range(10, 59), 3]
        request = cp.engine.prepare(model, prompt, branches=[cp.Branch(other, -0.8)], **GREEDY)
        got.append(engine.complete([request])[0][0].token_ids)
        context = prompt if vector else [1, *range(10, 59), 3]
        wanted.append(loop(hf, "llama", prompt, [(1.8, prompt, None, 0), (-0.8, context, vector, strength)]))
    for tokens, want in zip(got, wanted):
        assert_same(tokens, want)


def test_fingerprints_tell_states_apart():
    hf = ARCHITECTURES["llama"].model()
    model, vector, other = cp.Model(hf), make_vector(hf, "llama", 1), make_vector(hf, "llama", 2)
    states = [model, *(model.with_vector(v, s) for v, s in [(vector, 1.0), (vector, 0.5), (other, 1.0)])]
    assert len({state.fingerprint for state in states}) == 4
    again = cp.Model(hf).with_vector(cp.Vector(dict(vector.directions)), 1.0)
    assert again.fingerprint == states[1].fingerprint
    assert model.with_vector(vector, 0).fingerprint == model.fingerprint


def test_a_vector_and_its_rows_are_forgotten_with_the_requests_that_named_it():
    """Over HTTP every request may name another strength; neither models nor rows pile up."""
    hf = ARCHITECTURES["llama"].model()
    model, vector = cp.Model(hf), make_vector(hf, "llama")
    engine = cp.Engine(model)
    for number in range(40):
        other = OtherModel(model.with_vector(vector, 1 + number / 64))
        engine.complete([cp.engine.prepare(model, [1, 5], branches=[cp.Branch(other, -0.5)], max_tokens=2)])
    del other
    gc.collect()
    assert len(engine._rows) <= 12 and len(model._variants) <= 12


@needs_compiler
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_weights_in_blocks_of_a_file(weights, tmp_path):
    """The oracle reads the dequantized weights; the engine reads the blocks through its kernels."""
    want, path = model_and_file(WRITTEN["llama"], tmp_path, Kind.Q8_0 if weights == "int8" else Kind.Q4_1)
    model = cp.load(path, weights=weights)
    vector = make_vector(want, "llama", size=0.5)
    done = cp.generate(model.with_vector(vector, 1.0), [1, 9, 13, 40], **GREEDY)
    assert_same(done.token_ids, loop(want, "llama", [1, 9, 13, 40], [(1.0, [1, 9, 13, 40], vector, 1.0)]))
    assert cp.Vector.fit(model, [([5, 6, 7], [5, 6, 8]), ([9, 7], [9, 8])]).width == vector.width


@needs_compiler
def test_a_bfloat16_model_adds_in_bfloat16():
    hf = small.llama(max_position_embeddings=64).to(torch.bfloat16)
    vector = make_vector(hf, "llama", size=0.5)
    rows = cp.Model(hf).with_vector(vector, 1.0).new_rows()
    got = rows.forward([Feed(rows.add(), [1, 5, 9, 17])])[0].float().log_softmax(-1)
    want = logprobs(hf, "llama", [1, 5, 9, 17], vector)
    assert float((got - want).abs().max()) < 0.2 < float((got - logprobs(hf, "llama", [1, 5, 9, 17])).abs().max())


def test_compiled_steps_refuse_it():
    hf = ARCHITECTURES["llama"].model()
    model = cp.Model(hf, compile=True)
    with pytest.raises(UnsupportedError, match="compiled steps don't see a vector; use compile=False"):
        model.with_vector(make_vector(hf, "llama"))


def test_an_adapter_and_a_vector_are_on_together(tmp_path):
    peft = pytest.importorskip("peft")
    hf = small.llama(max_position_embeddings=64)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peft.inject_adapter_in_model(config, hf, "leaning")
    model, vector = cp.Model(hf), make_vector(hf, "llama", size=0.5)
    plain = model.with_adapter(None)
    both, only = model.with_vector(vector, 1.0), plain.with_vector(vector, 1.0)
    assert only is model.with_vector(vector, 1.0).with_adapter(None) and len({m.fingerprint for m in (both, only)}) == 2
    assert only.with_vector(None) is plain
    got = [cp.generate(m, PROMPTS[0], **GREEDY).token_ids for m in (both, only)]
    for layer in hf.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.enable_adapters(False)
    off = loop(hf, "llama", PROMPTS[0], [(1.0, PROMPTS[0], vector, 1.0)])
    assert_same(got[1], off)
    assert list(got[0]) != off[0]


def test_a_failing_forward_leaves_no_hook():
    hf = ARCHITECTURES["llama"].model()
    rows = cp.Model(hf).with_vector(make_vector(hf, "llama"), 1.0).new_rows()
    hooks = num_hooks(hf)
    with pytest.raises(IndexError):
        rows.forward([Feed(rows.add(), [100_000])])
    assert num_hooks(hf) == hooks


def test_vectors_that_do_not_fit():
    hf = ARCHITECTURES["llama"].model()
    model = cp.Model(hf, name="tiny")
    with pytest.raises(UnsupportedError, match="the vector is 16 wide and the states of tiny are 32 wide; fit one"):
        model.with_vector(cp.Vector({1: torch.ones(16)}))
    with pytest.raises(UnsupportedError, match="direction for layer 2 and the layers of tiny end at 1"):
        model.with_vector(cp.Vector({2: torch.ones(32)}), 0)
    with pytest.raises(UsageError, match="no vector 'calm'; none is loaded"):
        model.with_vector("calm")
    for strength, message in ((float("nan"), "strength is nan"), ("1", "strength is '1'"), (True, "strength is True")):
        with pytest.raises(GuideError, match=message):
            model.with_vector(cp.Vector({1: torch.ones(32)}), strength)


def test_layers_are_told_by_a_trial():
    """The right list is found among others, and a model without one stream is refused."""
    for name in NAMES:
        hf = ARCHITECTURES[name].model()
        assert list(layers_of(cp.Model(hf)).modules) == list(layer_list(hf, name))
    with pytest.raises(UnsupportedError, match="does not pass one stream of states through 4 layers"):
        cp.Model(small.gemma3n()).with_vector(cp.Vector({1: torch.ones(32)}))
