"""What the engine's thread holds back from the event loop, and what it hands over at once."""

import json
from types import SimpleNamespace

import pytest
from patience import http
from server.conftest import serving

from counterpoint.server.errors import ApiError
from counterpoint.server.jobs import MOST_HELD, Job, Outbox

ASKED = {"prompt": "Once upon", "max_tokens": 40, "temperature": 0, "ignore_eos": True}


def job(*, is_stream):
    return Job(SimpleNamespace(total=1), lambda job: None, is_stream=is_stream)


def event(number=0, *, is_end=False):
    return number, SimpleNamespace(completion="all of it" if is_end else None)


def test_a_stream_gets_each_step_and_a_whole_answer_its_end():
    outbox, stream, whole = Outbox(), job(is_stream=True), job(is_stream=False)
    first, second, end = event(0), event(1), event(2, is_end=True)
    outbox.put(stream, first)
    outbox.put(stream, second)
    outbox.put(whole, first)
    assert outbox.take() == [(stream, [first, second])]
    outbox.put(whole, second)
    assert outbox.take() == []
    outbox.put(whole, end)
    assert outbox.take() == [(whole, [first, second, end])]
    assert outbox.take() == []


def test_a_long_answer_is_handed_over_in_parts():
    outbox, whole = Outbox(), job(is_stream=False)
    for number in range(MOST_HELD - 1):
        outbox.put(whole, event(number))
    assert outbox.take() == []
    outbox.put(whole, event())
    assert [len(events) for _, events in outbox.take()] == [MOST_HELD]


def test_a_failure_takes_the_place_of_what_was_held():
    outbox, whole = Outbox(), job(is_stream=False)
    outbox.put(whole, event(is_end=True))
    error = ApiError(500, "failed")
    outbox.fail(whole, error)
    assert outbox.has_due
    assert outbox.take() == [(whole, error)]
    assert not outbox.has_due


def test_nothing_is_kept_for_a_job_that_was_left():
    outbox, whole = Outbox(), job(is_stream=False)
    outbox.put(whole, event())
    outbox.forget(whole)
    outbox.put(whole, end := event(is_end=True))
    assert outbox.take() == [(whole, [end])]


@pytest.mark.parametrize("more", [{}, {"n": 3, "seed": 1, "temperature": 0.9}, {"prompt": ["a", "bc"]}])
def test_the_event_loop_is_woken_for_each_token_of_a_stream_only(model, monkeypatch, more):
    with serving(model) as running:
        worker, woken = running.service.worker, []
        deliver = worker._deliver
        monkeypatch.setattr(worker, "_deliver", lambda due: (woken.append(len(due)), deliver(due)))
        whole = running.post(**ASKED | more).json()
        assert 1 <= len(woken) <= 40 // MOST_HELD * 3 + 3
        woken.clear()
        texts = [""] * len(whole["choices"])
        with http.stream("POST", running.base + "/v1/completions", json=ASKED | more | {"stream": True}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    texts[choice["index"]] += choice["text"]
        assert len(woken) >= 40
        assert texts == [choice["text"] for choice in whole["choices"]]
