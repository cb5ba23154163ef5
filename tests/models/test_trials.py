"""What a model can do, found by trial: the engine is exact on each kind, or refuses it before the first token."""

from __future__ import annotations

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from engine.oracle import assert_same
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import counterpoint as cp
from counterpoint.contexts import Suffix
from counterpoint.errors import Failure, PromptError, UnsupportedError
from counterpoint.models.attention import FewQueries
from counterpoint.models.model import Model
from counterpoint.models.separate import Manner
from counterpoint.models.traces import traces_of, unchanged
from counterpoint.models.trials import LoopCall, abilities_of
from counterpoint.models.trials.twin import twin_of
from models import small
from models.small import EVERY, LLAMA, VOCAB

TEXT = [3 + 7 * at % 190 for at in range(64)]
OTHER = [5 + 11 * at % 190 for at in range(64)]


@torch.inference_mode()
def _wanted(model, prompt, negative, scale, num_tokens):
    """Greedy guided tokens in log space, every branch read anew by the model alone, and their margins."""
    branches, tokens, margins = [list(prompt), list(negative)], [], []
    count = model.get_input_embeddings().num_embeddings
    for _ in range(num_tokens):
        cond, other = (
            model(torch.tensor([b]), use_cache=False).logits[0, -1, :count].double().log_softmax(-1) for b in branches
        )
        best = (other + scale * (cond - other)).topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        for branch in branches:
            branch.append(tokens[-1])
    return tokens, margins


def _check(hf_model, prompts, negatives, *, num_tokens=12, model=None, **more):
    model = model or Model(hf_model, compile=False)
    n = more.get("n", 1)
    done = cp.generate(
        model,
        prompts,
        negative=negatives,
        guide=[cp.Guide(scale=2.0 + row) for row in range(len(prompts))],
        max_tokens=num_tokens,
        temperature=0.0,
        **more,
    )
    for at, completion in enumerate(done):
        row = at // n
        want = _wanted(hf_model, prompts[row], negatives[row], 2.0 + row, len(completion.token_ids))
        assert_same(completion.token_ids, *want)
    return done


@pytest.mark.parametrize("kind", EVERY)
def test_rows_of_other_lengths_at_once(kind):
    """Short rows beside long ones, over the lengths where windows and scalings begin to act."""
    _check(EVERY[kind](), [TEXT[:5], TEXT[:20]], [OTHER[:12], OTHER[:3]])


@pytest.mark.parametrize("kind", EVERY)
def test_shared_beginnings_and_samples(kind):
    _check(EVERY[kind](), [TEXT[:18]], [TEXT[:17] + OTHER[:2]], n=2, num_tokens=8)


@pytest.mark.parametrize("kind", EVERY)
def test_guessed_tokens(kind):
    prompt = TEXT[:5] + TEXT[:5] + TEXT[:3]
    _check(EVERY[kind](), [prompt], [OTHER[:4]], draft_tokens=3)


@pytest.mark.parametrize("kind", EVERY)
def test_one_suffix_or_a_way_out(kind):
    model = EVERY[kind]()
    try:
        done = cp.generate(
            Model(model, compile=False),
            TEXT[:9],
            branches=[cp.Branch(Suffix(OTHER[:2]), weight=-1.0)],
            max_tokens=4,
            temperature=0.0,
        )
    except UnsupportedError as error:
        assert "give the suffix as a negative of its own" in str(error)
        return
    assert len(done.token_ids) == 4


@pytest.mark.parametrize("prompt_len, negative_len", [(28, 3), (3, 28), (32, 33), (40, 36)])
def test_longrope_over_its_original_length(prompt_len, negative_len):
    _check(small.phi3(), [TEXT[:prompt_len]], [OTHER[:negative_len]], num_tokens=16)


def test_a_long_text_leaves_nothing_to_a_short_one():
    hf_model = small.phi3()
    model = Model(hf_model, compile=False)
    _check(hf_model, [TEXT[:40]], [OTHER[:30]], model=model)
    _check(hf_model, [TEXT[:5]], [OTHER[:30]], model=model)
    rope = small.dynamic(context=16)
    rows = abilities_of(rope).new_rows()  # no bound: texts that are longer than the config says
    with torch.inference_mode():
        from counterpoint.models.rows import Feed

        fresh = {n: copy.deepcopy(rope)(torch.tensor([TEXT[:n]]), use_cache=False).logits[0, -1] for n in (30, 16, 20)}
        for length, want in fresh.items():
            row = rows.add()
            rows.forward([Feed(row, TEXT[: length - 1], columns=())])
            assert torch.allclose(rows.forward([Feed(row, TEXT[length - 1 : length])])[0], want, atol=1e-4)


# What is found where, with the lengths that a real config has: nothing as long is read.


def test_lengths_of_thousands_are_found_on_a_twin():
    long = small.phi3(original=4096, context=131072)
    found = abilities_of(long)
    assert not found.joint.holds(131072) and found.joint.holds(4096)
    assert found.manner.anew_at == (4096,) and found.manner.anew_from is None
    growing = small.dynamic(context=4096)
    found = abilities_of(growing)
    assert found.joint.holds(4096) and not found.joint.holds(None)
    assert found.manner.anew_from == 4096
    local, plain = small.gpt_neo(window=256), small.llama(max_position_embeddings=8192)
    assert not abilities_of(local).joint  # its own window, which no mask of ours tells it of
    assert abilities_of(plain).joint.holds(None)


def test_a_window_of_thousands_is_exact():
    config = hf.MistralConfig(sliding_window=4096, max_position_embeddings=32768, **LLAMA)
    model = small.built(hf.MistralForCausalLM, config)
    found = abilities_of(model)
    assert found.joint.holds(None) and found.kernels


def test_a_twin_keeps_what_acts_and_loses_what_is_large():
    config = hf.Gemma3TextConfig(
        head_dim=64, sliding_window=1024, **{**LLAMA, "hidden_size": 256, "num_hidden_layers": 24}
    )
    model = small.built(hf.Gemma3ForCausalLM, config)
    twin = twin_of(model)
    kinds = twin.model.config.layer_types
    assert set(kinds) == set(config.layer_types) and len(kinds) < 24
    assert 1024 in twin.lengths.values() and min(twin.lengths) < 40
    assert sum(p.numel() for p in twin.model.parameters()) < sum(p.numel() for p in model.parameters()) / 10


def test_the_kernel_is_for_classes_that_say_so():
    assert not FewQueries(small.falcon(), compiled=True).has_kernel
    model = small.falcon()
    with FewQueries(model).joint(1, traced=True):  # Falcon's own code asks what its attention is called
        assert model.config._attn_implementation == "sdpa"


def test_what_cant_be_cut_back_is_known():
    for new_model, crops in ((small.lfm2, False), (small.minimax, False), (small.gpt_neo, True)):
        model = new_model()
        assert abilities_of(model).manner.crops == crops


def test_what_is_not_causal_is_refused_before_the_first_token():
    for model in (small.bert(), small.roberta(is_decoder=False)):
        with pytest.raises(UnsupportedError, match="not causal.*is_decoder"):
            cp.generate(Model(model), [3, 4, 5], negative=[6], max_tokens=2)


def test_a_cache_that_is_wrong_is_not_used():
    """What no trial has shown is not done: the rows are read anew."""
    model = small.llama()
    layer = model.model.layers[0].self_attn
    forward = layer.forward

    def forgetful(*args, **kwargs):  # a cached step sees half of its past
        out = forward(*args, **kwargs)
        return out if kwargs["hidden_states"].shape[1] > 1 else (out[0] * 0.5, *out[1:])

    layer.forward = forgetful
    found = abilities_of(model)
    assert not found.joint and found.manner.anew_from == 0
    _check(model, [TEXT[:6]], [OTHER[:3]], num_tokens=6)


def test_a_trial_is_made_once_and_with_few_forwards():
    """A few tokens on the model itself, and the rest on a twin that is remembered for its config."""
    model = small.llama()
    calls = []
    model.register_forward_pre_hook(
        lambda _module, args, kwargs: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    before = torch.get_rng_state()
    Model(model, compile=False).new_rows()
    assert torch.equal(before, torch.get_rng_state())
    assert 0 < len(calls) <= 6 and sum(math.prod(shape) for shape in calls) <= 40
    num = len(calls)
    Model(model, compile=False).new_rows()
    assert len(calls) == num
    again = small.llama()
    assert abilities_of(again)._structure is abilities_of(model)._structure


@pytest.mark.parametrize("around", ["autocast", "device", "training"])
def test_what_is_switched_on_around_a_trial_changes_no_answer(around):
    model = small.llama(head_dim=20, attention_dropout=0.5)  # a config that no other test has tried
    model.config.name_or_path = around
    with torch.autocast("cpu", torch.bfloat16, enabled=around == "autocast"):
        with torch.device("meta" if around == "device" else "cpu"):
            able = abilities_of(model.train(around == "training"))
            assert able.joint and able.causal and able.padded and able.own_loop(LoopCall(padded=True))
    assert model.training is (around == "training")


def test_what_forwards_leave_on_modules_is_found_and_put_back():
    model = small.dynamic(context=8)
    fresh = model(torch.tensor([TEXT[:8]])).logits

    def read():
        model(torch.tensor([TEXT[:20]]))

    places = traces_of(model, read).places(model)
    assert {name for _, name in places} >= {"inv_freq", "max_seq_len_cached"}
    with unchanged(places):
        read()
    assert torch.equal(model(torch.tensor([TEXT[:8]])).logits, fresh)


# Other kinds.


def test_contexts_by_any_name():
    """As many tokens as the model's forward reads, whatever the config calls it; one more is refused."""
    for model, limit in ((small.mpt(40), 40), (small.mpt(700), 700), (small.roberta(), 64)):
        assert Model(model).context_len == limit
    model = Model(small.mpt(40), compile=False)
    assert len(cp.generate(model, TEXT[:30], negative=OTHER[:3], max_tokens=50, temperature=0.0).token_ids) == 10
    with pytest.raises(PromptError, match="holds 40"):
        cp.generate(model, TEXT[:40], max_tokens=2)


def test_ids_that_cant_be_read_back_are_not_chosen():
    model = Model(small.wide_head(), compile=False)
    assert model.vocab_size == VOCAB
    done = cp.generate(model, TEXT[:4], negative=OTHER[:4], max_tokens=24, temperature=2.0, seed=1)
    assert max(done.token_ids) < VOCAB


@pytest.mark.parametrize("offload", ["cpu_offload", "disk_offload"])
def test_offloaded_weights(offload, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, plain = small.llama(), small.llama()
    if offload == "cpu_offload":
        accelerate.cpu_offload(model, torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), torch.device("cpu"))
    assert model.device.type == "meta"
    ask = {"negative": OTHER[:3], "guide": cp.Guide(scale=3.0), "max_tokens": 6, "temperature": 0.0}
    got = cp.generate(Model(model, compile=False), TEXT[:7], **ask)
    assert got.token_ids == cp.generate(Model(plain, compile=False), TEXT[:7], **ask).token_ids


def test_weights_that_are_nowhere_are_refused():
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA))
    with pytest.raises(UnsupportedError, match="meta device.*from_pretrained"):
        cp.generate(Model(model), [3, 4], negative=[5], max_tokens=2)


@pytest.mark.parametrize("value, word", [(math.nan, "NaN"), (math.inf, "infinite")])
@pytest.mark.parametrize("guide", [cp.Guide(scale=3.0), cp.Guide(scale=3.0, plausibility=0.1), cp.Guide(scale=0.0)])
@pytest.mark.parametrize("broken", ["the prompt", "branch 1"])
def test_logits_that_are_no_numbers_are_an_error(value, word, guide, broken):
    model = small.llama()
    model.get_output_embeddings().register_forward_hook(
        _breaking(TEXT[0] if broken == "the prompt" else OTHER[0], value)
    )
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _module, args, _out: _breaking.seen.append(args[0]))
    with pytest.raises(Failure, match=f"{broken} are {word}"):
        cp.generate(
            Model(model, compile=False), TEXT[:1], negative=OTHER[:1], guide=guide, max_tokens=3, temperature=0.0
        )


def _breaking(token_id, value):
    """A hook on the head that spoils one logit of the rows that begin with a token."""
    _breaking.seen = []

    def hook(_module, _args, logits):
        ids = _breaking.seen[-1]
        if logits.shape[:2] == (1, len(ids)) and ids.shape[1] == 1:  # rows read together
            logits = logits.clone()
            logits[0, (ids[:, 0] == token_id).nonzero()[:, 0], 7] = value
        return logits

    return hook


def test_every_mapped_config_has_the_properties_of_a_model(monkeypatch):
    """Composite configs too, which keep at the top or in a part what others keep where they please."""
    plain = small.llama()
    monkeypatch.setattr(Model, "abilities", SimpleNamespace(context_len=None))
    tried = 0
    for config_class in MODEL_FOR_CAUSAL_LM_MAPPING:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config = config_class()
            except Exception:  # noqa: BLE001 - a config without defaults
                continue
            if config.is_encoder_decoder or _has_many_texts(config):
                continue
        model = copy.copy(plain)
        model.config, model.generation_config = config, hf.GenerationConfig()
        found = Model(model)
        assert all(isinstance(token_id, int) for token_id in found.eos_ids)
        assert found.bos_id is None or isinstance(found.bos_id, int)
        assert found.context_len is None or found.context_len > 0
        assert found.vocab_size == VOCAB and found.name in repr(found)
        tried += 1
    assert tried > 150


def _has_many_texts(config):
    try:
        config.get_text_config()
    except ValueError:
        return True
    return False


def test_manners():
    manner = Manner(anew_at=(4, 9))
    assert manner.holds(5, 9) and not manner.holds(4, 5) and not manner.holds(3, 20)
    assert Manner(anew_from=6).caches(6) and not Manner(anew_from=6).caches(7)
