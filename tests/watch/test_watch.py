"""A watch as a value: windows and distances by hand, its bound, its file, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from conformance.architectures import ARCHITECTURES
from scipy import stats

import counterpoint as cp
from counterpoint.errors import UsageError
from counterpoint.watch.distance import Forest, Nearest, bound, student, windows
from counterpoint.watch.fit import Listener, numbers_of

PROMPT, NEGATIVE = [1, 5, 9, 17, 40, 7], [1, 66, 3, 30]
GUIDE = cp.Guide(scale=2)


@pytest.fixture(scope="module")
def llama():
    return cp.Model(ARCHITECTURES["llama"].model(), name="tiny")


def texts(count=8, length=40, seed=0):
    source = np.random.default_rng(seed)
    return [
        np.abs(source.normal([2.0, 1.5, 1.2, 0.5], [0.6, 0.8, 0.7, 0.2], size=(length, 4))) * [1, -1, -1, 1]
        for _ in range(count)
    ]


def test_windows_by_hand():
    numbers = np.array([[1.0, -2, -1, 0.1], [3, -4, -2, 0.3], [5, -1, -3, 0.5]])
    got = windows(numbers, 2, ("entropy", "cond_logprob", "guided_logprob"))
    want = [[2, math.log(2.02), 3, math.log(3.02), 1.5], [4, math.log(4.02), 2.5, math.log(2.52), 2.5]]
    assert got == pytest.approx(np.array(want))
    assert windows(numbers, 2, ("divergence",))[:, 0] == pytest.approx(np.log([0.22, 0.42]))
    assert windows(numbers[:1], 2, ("entropy",)).shape == (0, 2)


def test_distances_by_hand():
    good = np.array([[0.0, 0], [2, 0], [0, 4], [2, 4]])  # spreads 1 and 2
    got = Nearest(good).distances(np.array([[0.0, 0], [1, 10]]))
    to_first = sorted([0, 2, 2, math.sqrt(8)])[:3]
    to_second = sorted([math.sqrt(1 + 25)] * 2 + [math.sqrt(1 + 9)] * 2)[:3]
    assert got == pytest.approx([sum(to_first) / 3, sum(to_second) / 3])


@pytest.mark.parametrize("freedom", [4, 7, 15, 60])
@pytest.mark.parametrize("probability", [0.8, 0.95])
def test_student(probability, freedom):
    assert student(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=0.01)


def test_the_next_good_text_stays_below_the_bound():
    source = np.random.default_rng(1)
    draws = np.exp(source.normal(1.0, 0.4, size=(4000, 9)))
    over = np.mean([row[8] > bound(row[:8], 0.05) for row in draws])
    assert 0.035 < over < 0.065


def test_good_texts_raise_no_alarm_and_derailed_ones_do():
    """The share of false alarms is what was asked for on average over watches, each of 8 texts."""
    fresh = texts(100, seed=500)
    watches = [cp.Watch(texts(seed=seed), "model") for seed in range(12)]
    assert 0.01 < np.mean([[w.scores(text).max() >= 1 for text in fresh] for w in watches]) < 0.09
    watch = watches[0]
    looping = [np.concatenate([text[:20], np.full((20, 4), [0.01, -0.01, -0.01, 0.02])]) for text in fresh[:20]]
    assert all(watch.scores(text).max() >= 1 for text in looping)


def test_a_text_is_heard_step_by_step():
    watch = cp.Watch(texts(), "model", window=8)
    from counterpoint.engine.watching import Numbers

    numbers, watching = texts(1, seed=3)[0], watch.start()
    heard = [watching.hear(step, Numbers(*row)) for step, row in enumerate(numbers)]
    assert heard[:7] == [None] * 7 and heard[7:] == pytest.approx(watch.scores(numbers).tolist())
    assert watching.begin == 32
    watching.cut(20)
    assert watching.hear(20, Numbers(*numbers[20])) == pytest.approx(heard[20]) and watching.begin == 13


def test_fit_from_texts_prompts_and_completions(llama):
    good = [(PROMPT, done) for done in cp.generate(
        llama, PROMPT, negative=NEGATIVE, guide=GUIDE, n=8, seed=1, max_tokens=24, ignore_eos=True
    )]  # fmt: skip
    watch = cp.Watch.fit(llama, good, negative=NEGATIVE, guide=GUIDE, window=8)
    again = cp.Watch.fit(llama, [(p, list(d.token_ids)) for p, d in good], negative=NEGATIVE, guide=GUIDE, window=8)
    assert watch.bound == pytest.approx(again.bound) and [len(text) for text in watch.texts] == [24] * 8
    other = cp.Watch.fit(llama, good, negative=[1, 2], guide=GUIDE, window=8)
    assert abs(other.bound - watch.bound) > 1e-6
    done = cp.generate(
        llama, PROMPT, negative=NEGATIVE, guide=GUIDE, watch=watch, max_tokens=24, ignore_eos=True, seed=1
    )
    assert done.token_ids == good[0][1].token_ids
    first = watch.texts[0]
    with torch.inference_mode():
        cond = llama.hf(torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    assert first[0, 1] == pytest.approx(float(cond[done.token_ids[0]]), abs=1e-4)
    assert first[0, 0] == pytest.approx(float(-(cond.exp() * cond).sum()), abs=1e-4)


@pytest.mark.parametrize("method", ["nearest", "forest"])
def test_the_file_round_trips(tmp_path, method):
    watch = cp.Watch(
        texts(), "abc", "tiny", window=12, method=method, numbers=("entropy", "divergence"), false_alarms=0.1
    )
    watch.save(tmp_path / "watch.json")
    again = cp.Watch.load(tmp_path / "watch.json")
    assert [path.name for path in tmp_path.iterdir()] == ["watch.json"]
    assert (again.model, again.model_name, again.window, again.method) == ("abc", "tiny", 12, method)
    assert again.numbers == ("entropy", "divergence")
    fresh = texts(1, seed=9)[0]
    assert again.scores(fresh).tolist() == watch.scores(fresh).tolist() and again.bound == watch.bound
    assert json.loads((tmp_path / "watch.json").read_text())["bound"] == watch.bound


def test_the_forest_is_scikit_learns():
    from sklearn.ensemble import IsolationForest

    good = np.concatenate([windows(text, 16, ("entropy", "divergence")) for text in texts()])
    want = -IsolationForest(n_estimators=100, random_state=0).fit(good).score_samples(good[:5])
    assert Forest(good).distances(good[:5]) == pytest.approx(want)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "mixtral"])
def test_states_are_those_that_the_head_reads(name):
    """Written, drafted, in a batch and given: the last states of a forward without a cache."""
    model = cp.Model(ARCHITECTURES[name].model(), name=name, compile=False)
    given = {"negative": NEGATIVE, "guide": GUIDE, "max_tokens": 14, "temperature": 0, "ignore_eos": True}
    listener = Listener(hears_states=True)
    done = cp.generate(model, [[1, 9], PROMPT], watch=listener, **{**given, "negative": [[3, 8, 8], NEGATIVE]})[1]
    drafted = Listener(hears_states=True)
    cp.generate(model, PROMPT, watch=drafted, draft_tokens=3, **given)
    written = numbers_of(model, [(PROMPT, done)], features="hidden", negative=NEGATIVE, guide=GUIDE)[0]
    heard = []
    handle = model.hf.get_output_embeddings().register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    with torch.inference_mode():
        model.hf(torch.tensor([[*PROMPT, *done.token_ids[:-1]]]), use_cache=False)
    handle.remove()
    want = heard[0][0, len(PROMPT) - 1 :].numpy()
    for got in (listener.texts[1], drafted.texts[0], written):
        assert np.array(got).shape == want.shape and np.allclose(got, want, atol=1e-3)


def test_a_watch_of_states(llama, tmp_path):
    plain = cp.Model(llama.hf, name="tiny", compile=False)
    given = {"negative": NEGATIVE, "guide": GUIDE, "max_tokens": 24, "ignore_eos": True}
    good = [(PROMPT, done) for done in cp.generate(plain, PROMPT, n=8, seed=1, **given)]
    watch = cp.Watch.fit(plain, good, negative=NEGATIVE, guide=GUIDE, window=8, features="hidden")
    watch.save(tmp_path / "watch.json")
    again = cp.Watch.load(tmp_path / "watch.json")
    assert again.hears_states and again.bound == watch.bound and watch.texts[0].shape == (24, 32)
    done = cp.generate(plain, PROMPT, seed=1, watch=again, **given)
    assert done.token_ids == good[0][1].token_ids and done.alarms == ()
    looping = cp.generate(plain, PROMPT, logit_bias={5: 100.0}, watch=again, temperature=0, **given)
    assert looping.alarms and set(looping.token_ids) == {5}
    with pytest.raises(UsageError, match="compiled steps don't tell the states of .*; load it with compile=False"):
        cp.Watch.fit(cp.Model(llama.hf, compile=True), good, features="hidden")
    with pytest.raises(UsageError, match="features is 'mood'; use numbers or hidden"):
        cp.Watch.fit(plain, good, features="mood")


def test_another_model_is_refused(llama):
    good = [(PROMPT, [*range(20 + n, 44 + n)]) for n in range(6)]
    watch = cp.Watch.fit(llama, good)
    watch.check(llama)
    other = cp.Model(ARCHITECTURES["qwen3"].model(), name="another")
    with pytest.raises(UsageError, match="the watch is of another model, tiny.* this one is another; fit one on it"):
        cp.generate(other, PROMPT, watch=watch, max_tokens=4)
    steered = llama.with_vector(cp.Vector({1: torch.ones(32)}))
    with pytest.raises(UsageError, match="of another model"):
        cp.generate(steered, PROMPT, watch=watch, max_tokens=4)


@pytest.mark.parametrize(
    "good, more, message",
    [
        ([], {}, "0 good texts are given; a watch needs 5, better 8 or more"),
        ([(PROMPT, range(2, 40))] * 4, {}, "4 good texts"),
        ([(PROMPT, range(2, 40))] * 8 + [(PROMPT, "")], {}, "good text 8 is empty"),
        ([(PROMPT, range(2, 40))] * 8 + [(PROMPT, [])], {}, "good text 8 is empty"),
        ([(PROMPT, range(2, 40))] * 8 + [(PROMPT, range(9))], {}, "good text 8 has 9 tokens and a window 16"),
        ([(PROMPT, range(2, 40))] * 8 + [(PROMPT, [99999])], {}, "good text 8 has the token id 99999"),
        ([(PROMPT, range(2, 40))] * 8 + [(PROMPT, 3.5)], {}, "good text 8 is 3.5"),
        ([(PROMPT, [5] * 300)] * 8, {}, "good text 0 is too long for tiny"),
        (["abc"], {}, "good text 0 is 'abc'; give"),
        ([(PROMPT, range(2, 40))] * 8, {"window": 3}, "window is 3"),
        ([(PROMPT, range(2, 40))] * 8, {"method": "svm"}, "method is 'svm'; use nearest or forest"),
        ([(PROMPT, range(2, 40))] * 8, {"false_alarms": 0.5}, "false_alarms is 0.5"),
        ([(PROMPT, range(2, 40))] * 8, {"numbers": ["mood"]}, "numbers has 'mood'; use some of entropy"),
        ([(PROMPT, range(2, 40))] * 8, {"numbers": []}, "numbers is empty"),
        ([(PROMPT, range(2, 40))] * 8, {"temperature": 1}, "no option 'temperature'"),
    ],
)
def test_mistakes_of_a_fit_are_one_line(llama, good, more, message):
    with pytest.raises(UsageError, match=message) as caught:
        cp.Watch.fit(llama, good, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("nothing like it", "is no watch"),
        ("[]", "no format"),
        ('{"format": "counterpoint-watch", "version": 9}', "version is 9"),
        ('{"format": "counterpoint-watch", "version": 1, "texts": []}', "it has no"),
        ('{"format": "counterpoint-watch", "version": 1, "texts": [], "model": "m", "model_name": "", "window": 16, '
         '"method": "nearest", "features": "numbers", "numbers": ["entropy"], "false_alarms": 0.05}', "0 good texts"),
    ],
)  # fmt: skip
def test_files_that_hold_no_watch(tmp_path, text, message):
    (tmp_path / "watch.json").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        cp.Watch.load(tmp_path / "watch.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="can't be read"):
        cp.Watch.load(tmp_path / "absent.json")
