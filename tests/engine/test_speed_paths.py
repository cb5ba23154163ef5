"""Every clever path on and off: the tokens are equal, greedy and sampled (law 3)."""

import dataclasses
import random

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from engine.oracle import assert_same, guided_tokens

import counterpoint as cp
from counterpoint.contexts import ReadBranch
from counterpoint.engine import Engine, prepare
from counterpoint.engine.lookup import Lookup
from counterpoint.engine.prefix import PrefixStore
from counterpoint.errors import SamplingError
from counterpoint.models.rows import Feed

ATTENTION = ["gpt2", "llama", "gemma3", "mistral"]


def repeating(seed, length=40):
    """A text that says the same things again, so that something is guessed."""
    source = random.Random(seed)
    phrases = [[source.randrange(2, VOCAB) for _ in range(5)] for _ in range(3)]
    return [token for _ in range(length // 5) for token in source.choice(phrases)][:length]


@pytest.fixture(params=ATTENTION)
def model(request):
    return cp.Model(ARCHITECTURES[request.param].model())


@pytest.mark.parametrize("space", ["log", "prob"])
def test_drafting_gives_the_tokens_of_the_stateless_loop(model, space):
    prompt, negative = repeating(1), repeating(2, 23)
    guide = cp.Guide(scale=1.5, space=space)
    done = cp.generate(
        model, prompt, negative=negative, guide=guide, max_tokens=48, temperature=0, ignore_eos=True, draft_tokens=5
    )
    want, margins = guided_tokens(model.hf, prompt, [negative], [-0.5], space=space, num_tokens=48)
    assert_same(done.token_ids, want, margins)


def test_drafting_changes_no_sample_and_guesses_some(model):
    options = {"guide": cp.Guide(scale=1.5, stop=20), "max_tokens": 40, "ignore_eos": True, "logprobs": 2}
    # One token is very probable after any other, so that guesses come true.
    options |= {"logit_bias": {7: 9.0}, "temperature": 0.9, "repetition_penalty": 1.1}
    prompts, negatives = [repeating(3), repeating(4, 11)], [repeating(5), repeating(6, 17)]
    plain = cp.generate(model, prompts, negative=negatives, seed=[1, 2], **options)
    drafted = cp.generate(model, prompts, negative=negatives, seed=[1, 2], draft_tokens=7, **options)
    for a, b in zip(plain, drafted):
        assert a.token_ids == b.token_ids
        assert [t.logprob for t in a.logprobs] == pytest.approx([t.logprob for t in b.logprobs], abs=1e-3)
    assert all(done.usage.guessed_tokens > 0 for done in drafted)
    assert all(done.usage.guessed_tokens == 0 for done in plain)


def test_a_right_guess_saves_its_step():
    model = cp.Model(ARCHITECTURES["llama"].model())
    prompt = repeating(7)
    options = {"max_tokens": 60, "temperature": 0, "ignore_eos": True, "logit_bias": {9: 60.0}}
    engine = Engine(model, draft_tokens=4)
    engine.add(prepare(model, prompt, **options))
    num_steps = 0
    while not engine.is_idle:
        engine.step()
        num_steps += 1
    assert num_steps < 30
    assert engine.num_rows == 0


def test_recurrent_models_ignore_it():
    model = cp.Model(ARCHITECTURES["mamba"].model())
    options = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
    drafted = cp.generate(model, repeating(1), draft_tokens=4, **options)
    assert drafted == cp.generate(model, repeating(1), **options)


def test_joining_while_others_draft():
    model = cp.Model(ARCHITECTURES["llama"].model())
    options = {"guide": cp.Guide(scale=1.5), "max_tokens": 30, "seed": 3, "ignore_eos": True, "logit_bias": {7: 8.0}}
    alone = [cp.generate(model, repeating(i), negative=repeating(i + 9), **options).token_ids for i in range(4)]
    engine, got = Engine(model, draft_tokens=6, prefill_tokens=8), {}
    for i in range(4):
        engine.add(prepare(model, repeating(i), negative=repeating(i + 9), **options))
        for progress in [*engine.step(), *engine.step(), *(engine.run() if i == 3 else ())]:
            got.setdefault(progress.request_id, []).append(progress.token_id)
    assert [tuple(got[i]) for i in range(4)] == alone


def test_lookup_finds_what_followed_and_waits_after_mistakes():
    lookup = Lookup([1, 2, 3, 4, 5, 1, 2])
    assert lookup.guess(3) == [3, 4, 5]
    assert lookup.guess(7) == [3, 4, 5, 1, 2, 3, 4]
    assert lookup.guess(0) == []
    lookup.extend(9)
    assert lookup.guess(3) == []
    for token in (1, 2):
        lookup.extend(token)
    assert lookup.guess(2) == [9, 1]
    lookup.judge(0)
    assert lookup.guess(2) == [9, 1]
    lookup.judge(0)
    assert lookup.guess(2) == []
    for token in (9, 1, 2):
        lookup.extend(token)
    assert lookup.guess(2) == [9, 1]


@pytest.mark.parametrize("value", [-1, True, 1.5])
def test_the_number_of_guesses_is_checked(value):
    with pytest.raises(SamplingError, match="draft_tokens is"):
        Engine(cp.Model(ARCHITECTURES["llama"].model()), draft_tokens=value)


def test_kept_prefixes_change_no_token_and_spare_reading(model):
    system, negative = repeating(11, 40), repeating(12, 35)
    options = {"guide": cp.Guide(scale=2.0), "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    engine, done = Engine(model, prefix_tokens=400), []
    for turn in range(3):
        prompt = [*system, *repeating(20 + turn, 6)]
        engine.add(prepare(model, prompt, negative=negative, **options))
        done.append(next(p.completion for p in engine.run() if p.completion))
        want, margins = guided_tokens(model.hf, prompt, [negative], [-1.0], num_tokens=12)
        assert_same(done[-1].token_ids, want, margins)
    assert done[0].usage.shared_tokens == 0
    assert all(40 + 34 <= completion.usage.shared_tokens for completion in done[1:])
    assert engine.num_rows == 0


def test_the_store_forgets_the_least_recently_used():
    model = cp.Model(ARCHITECTURES["llama"].model())
    rows, store = model.new_rows(), PrefixStore(100)
    texts = [repeating(i, 40) for i in range(3)]
    for text in texts[:2]:
        row = rows.add()
        rows.forward([Feed(row, text)])
        store.keep(rows, row, text)
    assert store.num_tokens == 80
    assert store.find(rows, texts[0])[1] == 40  # used just now
    row = rows.add()
    rows.forward([Feed(row, texts[2])])
    store.keep(rows, row, texts[2])
    assert store.num_tokens == 80
    assert store.find(rows, texts[1]) == (None, 0)
    assert store.find(rows, [*texts[2], 5])[1] == 40
    store.keep(rows, row, texts[2][:20])  # begins a kept one
    assert store.num_tokens == 80
    store.keep(rows, row, repeating(9, 105))  # too long for the store
    assert store.num_tokens == 80
    assert store.find(model.new_rows(), texts[2]) == (None, 0)  # rows of another model


def test_prefixes_of_models_that_keep_a_state_are_not_kept():
    model = cp.Model(ARCHITECTURES["mamba"].model())
    options = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    engine = Engine(model, prefix_tokens=400)
    for _ in range(2):
        engine.add(prepare(model, repeating(1), **options))
        done = next(p.completion for p in engine.run() if p.completion)
    assert done.usage.shared_tokens == 0
    assert done.token_ids == cp.generate(model, repeating(1), **options).token_ids


def peaked(name):
    """A model that is often sure, so that some steps are decided by the prompt alone."""
    hf = ARCHITECTURES[name].build().eval()
    torch.manual_seed(0)
    for parameter in hf.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    hf.get_output_embeddings().weight.data.mul_(6.0)
    return hf


def both_ways(model, prompts, negatives, **options):
    """Completions without skipping and with it."""
    done = []
    for skips in (False, True):
        engine = Engine(model, skips=skips)
        for i, (prompt, branches) in enumerate(zip(prompts, negatives)):
            request = prepare(model, prompt, seed=i, ignore_eos=True, max_tokens=40, **{**options, "guide": None})
            engine.add(dataclasses.replace(request, branches=branches, guide=options["guide"]))
        ended = [p.completion for p in engine.run() if p.completion]
        done.append(sorted(ended, key=lambda completion: completion.usage.prompt_tokens))
    return done


PROMPTS = [repeating(1, 10), repeating(2, 25), repeating(3, 40)]
RULES = [
    {"guide": cp.Guide(scale=3.0, plausibility=0.3), "temperature": 0},
    {"guide": cp.Guide(scale=3.0, plausibility=0.3), "temperature": 1.0, "top_p": 0.9, "logprobs": 2},
    {"guide": cp.Guide(scale=3.0, gate=0.7), "temperature": 0.8, "repetition_penalty": 1.2},
    {"guide": cp.Guide(scale=1.3, space="prob"), "temperature": 0},
    {"guide": cp.Guide(scale=2.0, start=5, stop=12), "temperature": 1.0},
    {"guide": cp.Guide(scale=3.0, space="prob", plausibility=0.3), "temperature": 0},
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["guide"]))
@pytest.mark.parametrize("kind", ["separate rows", "a second model"])
def test_skipping_changes_no_token_and_skips_some(kind, rule):
    if kind == "separate rows":
        model = cp.Model(peaked("bloom"))
        negatives = [(ReadBranch(tuple(repeating(i + 9, 15)), 1 - rule["guide"].scale),) for i in range(3)]
    else:
        model, other = cp.Model(peaked("llama")), cp.Model(ARCHITECTURES["gpt2"].model())
        assert model.vocab_size == other.vocab_size
        weight = 1 - rule["guide"].scale
        negatives = [(ReadBranch(tuple(repeating(i + 9, 15)), weight, model=other),) for i in range(3)]
    plain, skipped = both_ways(model, PROMPTS, negatives, **rule)
    for a, b in zip(plain, skipped):
        assert a.token_ids == b.token_ids
        if a.logprobs is not None:
            assert [t.logprob for t in a.logprobs] == pytest.approx([t.logprob for t in b.logprobs], abs=1e-3)
        assert a.usage.skipped_steps == 0
    assert sum(completion.usage.skipped_steps for completion in skipped) > 0
