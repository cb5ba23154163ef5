"""Many prompts under many guides, kept as they are answered."""

import pytest

import counterpoint as cp
from counterpoint.errors import Failure
from counterpoint.evaluate import answering
from counterpoint.evaluate.answering import Task, answer_all
from counterpoint.store import Store

GUIDES = [cp.Guide(scale=1.0), cp.Guide(scale=2.0), cp.Guide(scale=3.0, space="prob")]


@pytest.fixture(scope="module")
def model():
    return cp.load("bundled", compile=False)


@pytest.fixture(scope="module")
def tasks(model):
    texts = ["The king rode out", "She said nothing", "It was a dark night"]
    return [
        Task(tuple(model.encode(text)), tuple(model.encode("A dull report.")), guide,
             {"max_tokens": 8, "temperature": temperature, "seed": 5})
        for text in texts for guide in GUIDES for temperature in (0.0, 1.0)
    ]  # fmt: skip


def test_each_answer_is_that_of_generate(model, tasks):
    found = answer_all(model, tasks, store=Store(None), weights="w", together=7, max_rows=8)
    for task, one in zip(tasks, found):
        negative = None if task.guide.scale == 1 else task.negative
        want = cp.generate(model, list(task.context), negative=negative, guide=task.guide, **task.arguments)
        assert (one.text, one.num_tokens, one.is_ended) == (
            want.text,
            len(want.token_ids),
            want.finish_reason == "stop",
        )
        assert 0 <= one.num_artefacts <= one.num_tokens
    greedy = [one for task, one in zip(tasks, found) if task.guide.scale == 1 and task.arguments["temperature"] == 0]
    assert [one.num_artefacts for one in greedy] == [0, 0, 0]  # the best token is never improbable


def test_killed_it_goes_on_and_computes_nothing_twice(model, tasks, tmp_path, monkeypatch):
    done, real = [], answering._request

    def dies(model, task, count):
        done.append(task)
        if len(done) > 9:
            raise Failure("killed")
        return real(model, task, count)

    monkeypatch.setattr(answering, "_request", dies)
    with pytest.raises(Failure):
        answer_all(model, tasks, store=Store(tmp_path / "a"), weights="w", together=4)
    monkeypatch.setattr(answering, "_request", real)
    store = Store(tmp_path / "a")
    whole = answer_all(model, tasks, store=store, weights="w", together=4)
    assert (store.num_reused, store.num_computed) == (8, len(tasks) - 8)
    assert whole == answer_all(model, tasks, store=Store(None), weights="w")
    # Other weights, another negative or another seed is another answer; unguided the negative is not read.
    assert answer_all(model, tasks[:1], store=store, weights="v", seconds=-1) == [None]
    assert (
        answer_all(
            model, [Task(tasks[0].context, (3,), GUIDES[0], tasks[0].arguments)], store=store, weights="w", seconds=-1
        )
        == whole[:1]
    )


def test_out_of_time_what_is_left_is_none(model, tasks):
    assert answer_all(model, tasks, store=Store(None), weights="w", seconds=-1) == [None] * len(tasks)
