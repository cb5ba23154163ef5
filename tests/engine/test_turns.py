"""Samples whose choice takes a time of its own take turns beside others, and no token depends on it."""

import dataclasses

import pytest
from constrained_models import tiny

from counterpoint.constraints import Regex
from counterpoint.engine import Engine, prepare, turns


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def requests_of(model):
    """One plain request, then those that choose sample by sample."""
    how = {"max_tokens": 12, "seed": 3, "ignore_eos": True}
    scored = prepare(model, "A cat", max_tokens=10, logprobs=3, temperature=0, negative="A dog")
    return [
        prepare(model, "The plain one", **how, negative="Another"),
        prepare(model, "Seen", **how, n=5, logprobs=2, negative="Unseen"),
        prepare(model, "Pushed", **how, n=3, logit_bias={5: 4.0}, frequency_penalty=0.5),
        prepare(model, "Formed", max_tokens=12, seed=1, n=4, constraint=Regex("[ab]{2}cccccccc[ab]")),
        dataclasses.replace(scored, given_ids=tuple(range(20, 30))),
    ]


def texts(engine, requests):
    return [[one.token_ids for one in samples] for samples in engine.complete(requests)]


@pytest.mark.parametrize("step_s", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("draft_tokens", [0, 3])
def test_turns_change_no_token(model, monkeypatch, step_s, draft_tokens):
    alone = [texts(Engine(model), [one])[0] for one in requests_of(model)]
    monkeypatch.setattr(turns, "STEP_S", max(step_s, 1e-9))
    if not step_s:  # as where the machine is slow: every turn has taken long
        monkeypatch.setattr(turns.Turns, "_note", lambda self, portion, cost: note(self, portion, 1.0))
    assert texts(Engine(model, draft_tokens=draft_tokens), requests_of(model)) == alone


note = turns.Turns._note


def test_a_plain_text_goes_on_at_every_step_and_the_others_in_turn(model, monkeypatch):
    monkeypatch.setattr(turns, "STEP_S", 1e-9)
    monkeypatch.setattr(turns.Turns, "_note", lambda self, portion, cost: note(self, portion, 1.0))
    engine = Engine(model)
    plain, seen, pushed, *_ = map(engine.add, requests_of(model)[:3])
    steps = []
    while sum((plain, 0) in step for step in steps) < 12:
        steps.append([(one.request_id, one.index) for one in engine.step()])
        assert sum(request_id != plain for request_id, _ in steps[-1]) <= 1
    written = [number for number, step in enumerate(steps) if (plain, 0) in step]
    assert written[-1] - written[0] == 11
    first = [one for step in steps for one in step if one[0] != plain]
    # One of each request in turn, and every sample before any has its second turn.
    assert [request_id for request_id, _ in first[:6]] in ([seen, pushed] * 3, [pushed, seen] * 3)
    assert {index for request_id, index in first[:6] if request_id == pushed} == {0, 1, 2}


def test_one_request_alone_does_not_wait(model):
    engine = Engine(model)
    engine.add(requests_of(model)[1])
    progress = []
    while not engine.is_idle:
        progress.append(len(engine.step()))
    assert [n for n in progress if n] == [5] * 12


def test_forced_tokens_of_many_samples_are_read_a_part_at_a_time(model, monkeypatch):
    monkeypatch.setattr(turns, "MOST_FORCED", 32)
    request = prepare(model, "Formed", max_tokens=100, seed=1, n=8, constraint=Regex("[ab]" + "c" * 90))
    whole = texts(Engine(model), [request])
    monkeypatch.setattr(turns, "MOST_FORCED", 10**6)
    assert texts(Engine(model), [request]) == whole
    monkeypatch.setattr(turns, "MOST_FORCED", 32)
    engine = Engine(model)
    engine.add(request)
    while not engine.is_idle:
        assert len(engine.step()) <= 8 * (1 + 32 // 8)
