"""Drafts by a second model and by the prompt's branch running ahead: the tokens are those without, greedy and sampled."""

import copy
import random
import string

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from engine.oracle import assert_same, guided_tokens, run_to_the_end
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import counterpoint as cp
from counterpoint.contexts import LastTokens, OtherModel, Suffix
from counterpoint.engine import Engine, drafting, prepare
from counterpoint.errors import SamplingError, UnsupportedError

PLAIN = {"max_tokens": 24, "ignore_eos": True}
GREEDY = {**PLAIN, "temperature": 0}


def ids(seed, length):
    source = random.Random(seed)
    return [source.randrange(2, VOCAB) for _ in range(length)]


def noisy(hf, share):
    """The same model with its weights off by a share, so that it predicts the same most of the time."""
    hf = copy.deepcopy(hf)
    source = torch.Generator().manual_seed(1)
    for parameter in hf.parameters():
        parameter.data += share * parameter.data.std() * torch.randn(parameter.shape, generator=source)
    return hf


def letters():
    """A tokenizer of one character a token."""
    vocab = {character: i for i, character in enumerate(string.printable[:90] + "àáâãäåæçèéêëìíîïðñòóôõöøùúûü")}
    vocab |= {chr(0x400 + i): i for i in range(len(vocab), VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="0"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma3", "mistral"])
def pair(request):
    """A model and a draft model that often agrees with it."""
    hf = ARCHITECTURES[request.param].model()
    return cp.Model(hf), cp.Model(noisy(hf, 0.02), name="draft")


@pytest.mark.parametrize("space", ["log", "prob"])
def test_a_draft_model_gives_the_tokens_of_the_stateless_loop(pair, space):
    model, draft = pair
    prompt, negatives, weights = ids(1, 12), [ids(2, 23), ids(3, 5)], [-0.6, 0.2]
    branches = [cp.Branch(negative, weight) for negative, weight in zip(negatives, weights)]
    guide = cp.Guide(space=space)
    for number in (1, 4):
        done = cp.generate(
            model, prompt, branches=branches, guide=guide, draft_tokens=number, draft_model=draft, **GREEDY
        )
        want, margins = guided_tokens(model.hf, prompt, negatives, weights, space=space, num_tokens=24)
        assert_same(done.token_ids, want, margins)
        assert 0 < done.usage.guessed_tokens < 24


RULES = [
    {"guide": cp.Guide(scale=2.0), "temperature": 0.9},
    {"guide": cp.Guide(scale=2.0, space="prob"), "temperature": 1.2, "top_k": 20, "top_p": 0.9},
    {"guide": cp.Guide(scale=3.0, plausibility=0.2), "temperature": 0.7, "logprobs": 2},
    {"guide": cp.Guide(scale=3.0, gate=2.0), "temperature": 0.8, "repetition_penalty": 1.2},
    {
        "guide": cp.Guide(scale=2.0, adaptive="jsd"),
        "temperature": 0.8,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.2,
    },
    {"guide": cp.Guide(scale=2.0, start=4, stop=17), "temperature": 1.0, "min_p": 0.05},
    {"guide": cp.Guide(scale=2.0), "temperature": 0, "repetition_penalty": 1.3, "logit_bias": {9: 1.5}},
]


def rather_even_after_five(prompt_ids, output_ids, scores):
    if len(output_ids) >= 5:
        scores = scores.clone()
        scores[1::2] -= 4.0
    return scores


def same(plain, drafted):
    for a, b in zip(plain, drafted, strict=True):
        assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
        if a.logprobs is not None:
            assert [t.logprob for t in a.logprobs] == pytest.approx([t.logprob for t in b.logprobs], abs=1e-3)
    return sum(completion.usage.guessed_tokens for completion in drafted)


@pytest.mark.parametrize("pair", ["gpt2", "gemma3"], indirect=True)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["guide"]))
def test_a_draft_model_changes_no_sample(pair, rule):
    model, draft = pair
    prompts, negatives = [ids(4, 9), ids(5, 30)], [ids(6, 21), LastTokens()]
    options = {**PLAIN, **rule, "negative": negatives, "seed": [1, 2], "n": 2}
    plain = cp.generate(model, prompts, **options)
    assert same(plain, cp.generate(model, prompts, draft_tokens=5, draft_model=draft, **options)) > 5
    options["processors"] = [rather_even_after_five]
    same(
        cp.generate(model, prompts, **options),
        cp.generate(model, prompts, draft_tokens=5, draft_model=draft, **options),
    )


def test_samples_agree_as_often_as_the_distributions_do():
    """A draft that is the model itself guesses every sample: it draws with the request's own random numbers."""
    model = cp.Model(ARCHITECTURES["llama"].model())
    twin = cp.Model(copy.deepcopy(model.hf))
    options = {
        **PLAIN,
        "negative": ids(8, 11),
        "guide": cp.Guide(scale=1.5),
        "temperature": 1.3,
        "top_p": 0.9,
        "seed": 5,
    }
    done = cp.generate(model, ids(7, 10), draft_tokens=4, draft_model=twin, **options)
    # The first token is never guessed; then at least 4 of 5 are.
    assert done.usage.guessed_tokens >= 0.75 * 23
    same([cp.generate(model, ids(7, 10), **options)], [done])


class Forbidding:
    """Forbids the best token now and then, and lets its forks forbid it only if told so."""

    def __init__(self, foreseen, depth=0):
        self.foreseen, self.depth, self.num_calls = foreseen, depth, 0

    def fork(self):
        other = Forbidding(self.foreseen, self.depth + 1)
        other.num_calls = self.num_calls
        return other

    def __call__(self, prompt_ids, output_ids, scores):
        assert self.num_calls == len(output_ids)
        self.num_calls += 1
        scores = scores.clone()
        if len(output_ids) % 6 == 5 and (self.foreseen or self.depth == 1):
            scores[scores.argmax()] = -float("inf")
        return scores


@pytest.mark.parametrize("foreseen, least", [(False, 28), (True, 36)])
def test_wrong_guesses_are_forgotten_in_the_rows_of_the_draft_model(foreseen, least):
    """What the draft can't foresee costs the guesses at it and none of the later ones; a processor it does foresee."""
    model = cp.Model(ARCHITECTURES["llama"].model())
    twin = cp.Model(copy.deepcopy(model.hf))
    options = {**GREEDY, "max_tokens": 48, "processors": [Forbidding(foreseen)], "negative": ids(8, 11)}
    done = cp.generate(model, ids(7, 10), draft_tokens=4, draft_model=twin, **options)
    assert done.usage.guessed_tokens >= least
    same([cp.generate(model, ids(7, 10), **options)], [done])


def ahead_cases():
    """A model and branches that cost a forward of their own."""
    bloom = cp.Model(ARCHITECTURES["bloom"].model())
    yield "separate rows", bloom, [cp.Branch(ids(11, 8), -0.3), cp.Branch(ids(12, 20), -0.2)]
    llama, gpt2 = (cp.Model(ARCHITECTURES[name].model()) for name in ("llama", "gpt2"))
    yield "another model", llama, [cp.Branch(OtherModel(gpt2), -0.25)]
    yield (
        "another model and a row beside",
        llama,
        [cp.Branch(ids(13, 9), -0.4), cp.Branch(OtherModel(gpt2, ids(14, 5)), 0.1)],
    )
    twice = [
        cp.Branch(OtherModel(gpt2), -0.2),
        cp.Branch(ids(13, 9), -0.4),
        cp.Branch(ids(15, 3), 0.3),
        cp.Branch(ids(13, 9), 0.1),
    ]
    yield "many", llama, twice


CASES = list(ahead_cases())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["guide"]))
@pytest.mark.parametrize("name, model, branches", CASES, ids=[case[0] for case in CASES])
def test_running_ahead_changes_no_token(name, model, branches, rule):
    prompts = [ids(16, 9), ids(17, 30)]
    rule = {**rule, "guide": cp.Guide(**{**rule["guide"].to_dict(), "scale": None})}
    options = {**PLAIN, **rule, "branches": branches, "seed": [3, 4]}
    plain = cp.generate(model, prompts, **options)
    assert same(plain, cp.generate(model, prompts, draft_tokens=3, draft_ahead=True, **options)) > 5


@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_running_ahead_gives_the_tokens_of_the_stateless_loop_in_fewer_forwards(name):
    hf, prompt, negative = ARCHITECTURES[name].model(), ids(18, 10), ids(19, 14)
    twin = cp.Model(copy.deepcopy(hf))
    branches = [cp.Branch(OtherModel(twin, negative), -0.2)]
    model, counts, seen = cp.Model(hf), [], []
    hook = twin.hf.register_forward_pre_hook(lambda *_: seen.append(1))
    for is_ahead in (False, True):
        seen.clear()
        done = cp.generate(model, prompt, branches=branches, draft_tokens=3 * is_ahead, draft_ahead=is_ahead, **GREEDY)
        want, margins = guided_tokens(hf, prompt, [negative], [-0.2], num_tokens=24)
        assert_same(done.token_ids, want, margins)
        counts.append(len(seen))
    hook.remove()
    assert done.usage.guessed_tokens > 10
    assert counts[1] < 0.75 * counts[0]


@pytest.mark.parametrize("way", ["model", "ahead"])
def test_stop_texts_streams_and_ends(way):
    hf = ARCHITECTURES["llama"].model()
    tokenizer = letters()
    model, draft = cp.Model(hf, tokenizer), cp.Model(noisy(hf, 0.02), tokenizer)
    branches = [
        cp.Branch(OtherModel(cp.Model(ARCHITECTURES["gpt2"].model(), tokenizer)), -0.3),
        cp.Branch(ids(20, 6), -0.3),
    ]
    drafts = {"draft_tokens": 5, **({"draft_model": draft} if way == "model" else {"draft_ahead": True})}
    for seed in range(2):
        options = {"branches": branches, "seed": seed, **PLAIN}
        text = cp.generate(model, ids(21, 9), **options).text
        for more in (
            {"stop": text[17:19]},
            {"stop": text[8]},
            {"stop_ids": [model.tokenizer.convert_tokens_to_ids(text[12])]},
        ):
            plain = cp.generate(model, ids(21, 9), **options, **more)
            drafted = cp.generate(model, ids(21, 9), **options, **more, **drafts)
            same([plain], [drafted])
            pieces = list(cp.stream(model, ids(21, 9), **options, **more, **drafts))
            assert "".join(pieces) == plain.text and len(plain.text) < 19


@pytest.mark.parametrize("way", ["model", "ahead"])
def test_joining_cancelling_and_failing_while_others_draft(way):
    hf = ARCHITECTURES["llama"].model()
    model, draft, other = cp.Model(hf), cp.Model(noisy(hf, 0.02)), cp.Model(ARCHITECTURES["gpt2"].model())
    options = {**PLAIN, "branches": [cp.Branch(OtherModel(other), -0.3), cp.Branch(ids(22, 7), -0.3)], "seed": 3}
    alone = [cp.generate(model, ids(30 + i, 6 + 5 * i), **options).token_ids for i in range(4)]
    drafts = {"draft_model": draft} if way == "model" else {"draft_ahead": True}
    engine, got, failed = Engine(model, draft_tokens=4, prefill_tokens=8, **drafts), {}, {}

    def broken(prompt_ids, output_ids, scores):
        if len(output_ids) == 7:
            raise OSError("broken")
        return scores

    for i in range(6):
        processors = [broken] if i == 5 else []
        engine.add(prepare(model, ids(30 + i % 4, 6 + 5 * (i % 4)), **options, processors=processors))
        for _ in range(2):
            for progress in engine.step():
                got.setdefault(progress.request_id, []).append(progress.token_id)
    engine.cancel(4)
    while not engine.is_idle:
        for progress in engine.step():
            if progress.error is not None:
                failed[progress.request_id] = progress.error
            got.setdefault(progress.request_id, []).append(progress.token_id)
    assert [tuple(got[i]) for i in range(4)] == alone
    assert list(failed) == [5] and isinstance(failed[5], OSError)
    assert engine.num_rows == 0


def test_a_draft_model_that_fails_ends_the_request_it_fails_for():
    model = cp.Model(ARCHITECTURES["llama"].model())
    draft = cp.Model(noisy(model.hf, 0.02))
    want = [cp.generate(model, prompt, **GREEDY).token_ids for prompt in ([5, 6, 7], [8, 9])]

    def refuse(module, args):
        if (args[0] == 77).any():
            raise MemoryError("too much")

    draft.hf.get_input_embeddings().register_forward_pre_hook(refuse)
    engine = Engine(model, draft_tokens=3, draft_model=draft)
    for prompt in ([5, 6, 7], [5, 77], [8, 9]):
        engine.add(prepare(model, prompt, **{**GREEDY, "logit_bias": {77: -float("inf")}}))
    done, failed = run_to_the_end(engine)
    assert isinstance(failed[1], MemoryError) and list(failed) == [1]
    if 77 not in want[0] + want[1]:
        assert [done[0], done[2]] == want
    assert engine.num_rows == 0


def test_a_draft_model_with_a_short_context_stops_guessing_there():
    hf = ARCHITECTURES["llama"].model()
    model, draft = cp.Model(hf), cp.Model(copy.deepcopy(hf))
    draft.hf.config.max_position_embeddings = 20
    done = cp.generate(model, ids(1, 10), draft_tokens=4, draft_model=draft, **GREEDY)
    same([cp.generate(model, ids(1, 10), **GREEDY)], [done])
    assert 0 < done.usage.guessed_tokens <= 10
    long = cp.generate(model, ids(1, 25), draft_tokens=4, draft_model=draft, **GREEDY)
    assert long.usage.guessed_tokens == 0


def test_what_can_not_draft_is_refused_by_name():
    model, gpt2 = cp.Model(ARCHITECTURES["llama"].model(), name="big"), cp.Model(ARCHITECTURES["gpt2"].model())
    small = copy.deepcopy(gpt2.hf)
    small.resize_token_embeddings(VOCAB - 20)
    with pytest.raises(UnsupportedError, match=f"tiny can't draft for big: it has {VOCAB - 20} tokens, not {VOCAB}"):
        cp.generate(model, [5, 6], draft_tokens=4, draft_model=cp.Model(small, name="tiny"))
    recurrent = cp.Model(ARCHITECTURES["mamba"].model(), name="mamba")
    for pair in ((model, recurrent), (recurrent, model)):
        with pytest.raises(UnsupportedError, match="mamba keeps a state that can't be rolled back, so guesses can't"):
            Engine(pair[0], draft_tokens=4, draft_model=pair[1])
    for more in ({"draft_model": gpt2}, {"draft_ahead": True}):
        with pytest.raises(SamplingError, match="draft_tokens is 0"):
            Engine(model, **more)
    with pytest.raises(SamplingError, match="both given"):
        Engine(model, draft_tokens=2, draft_model=gpt2, draft_ahead=True)


def test_suffixes_and_recurrent_branches_are_not_drafted():
    model, draft = cp.Model(ARCHITECTURES["llama"].model()), cp.Model(ARCHITECTURES["gpt2"].model())
    for negative in (Suffix([5, 9]), OtherModel(cp.Model(ARCHITECTURES["mamba"].model()))):
        options = {**GREEDY, "negative": negative, "guide": cp.Guide(scale=1.5)}
        done = cp.generate(model, ids(1, 9), draft_tokens=4, draft_model=draft, **options)
        assert done == cp.generate(model, ids(1, 9), **options)


@pytest.mark.parametrize("way", ["model", "ahead"])
def test_where_nothing_can_be_guessed_nothing_is(way, monkeypatch):
    model, other = cp.Model(ARCHITECTURES["llama"].model()), cp.Model(ARCHITECTURES["gpt2"].model())
    options = {**GREEDY, "branches": [cp.Branch(OtherModel(other), -0.2)]}
    plain, real = cp.generate(model, ids(1, 9), **options), drafting._next

    def failing(sequence):
        if len(sequence.drafter.guesses) == 2:
            raise RuntimeError("no token is left")
        return real(sequence)

    monkeypatch.setattr(drafting, "_next", failing)
    drafts = {"draft_model": cp.Model(noisy(model.hf, 0.02))} if way == "model" else {"draft_ahead": True}
    assert same([plain], [cp.generate(model, ids(1, 9), draft_tokens=4, **drafts, **options)]) > 0
