"""Echoes: against loops over windows and lags, in texts that repeat themselves, and where good texts are too short."""

import json

import numpy as np
import pytest
from watch.test_watch import texts

import counterpoint as cp
from counterpoint.watch.distance import LEAST, bound
from counterpoint.watch.echo import Echo


def by_loops(steps, length, least):
    """The same, one window and one lag at a time."""
    told = []
    for at in range(len(steps) - length + 1):
        apart = [
            np.mean([np.abs(steps[at + k] - steps[at + k - lag]).mean() for k in range(length)])
            for lag in range(2, 3 * length + 1)
            if at - lag >= 0
        ]
        told.append((max(np.median(apart), least) + LEAST) / (min(apart) + LEAST) if len(apart) >= length else 1.0)
    return told


@pytest.mark.parametrize("count", [3, 4, 8, 9, 10, 16, 17, 40])
@pytest.mark.parametrize("columns", [1, 3])
def test_every_window_is_that_of_a_loop(count, columns):
    source = np.random.default_rng(count)
    good = [source.random((30, columns)) for _ in range(3)]
    echo, steps = Echo(good, 4), source.random((count, columns))
    assert echo._least == pytest.approx(min(np.nanmin(echo._apart(text)[1]) for text in good))
    assert echo.distances(steps) == pytest.approx(by_loops(steps, 4, echo._least))
    small = steps / 1000  # below all good texts
    assert echo.distances(small) == pytest.approx(by_loops(small, 4, echo._least))


def test_the_last_window_is_told_as_among_all():
    steps = np.random.default_rng(0).random((90, 3))
    echo = Echo([steps[:50]], 6)
    for count in range(6, 91):
        assert echo.last(steps[:count]) == pytest.approx(echo.distances(steps[:count])[-1])


@pytest.mark.parametrize("period", [1, 2, 5, 16, 33, 48])
def test_a_loop_raises_an_alarm_once_it_is_a_window_long(period):
    watch = cp.Watch(texts(length=60), "model")
    text = texts(1, length=60, seed=77)[0]
    around = np.tile(text[60 - period :], (80 // period + 1, 1))[:80]
    noise = np.random.default_rng(3).normal(0, 0.01, around.shape)
    scores = watch.scores(np.concatenate([text, around + noise]))
    assert scores[:45].max() < 1 and scores[45 : 45 + 20].max() >= 1
    heard = watch.start()
    from counterpoint.engine.watching import Numbers

    told = [heard.hear(n, Numbers(*row)) for n, row in enumerate(np.concatenate([text, around + noise]))]
    assert told[15:] == pytest.approx(scores.tolist())


def test_a_text_that_is_one_loop_from_its_beginning():
    """Every run before is as near as the nearest: the least of the good texts' medians tells it."""
    watch = cp.Watch(texts(length=60), "model", numbers=("guided_logprob",))
    usual = watch.texts[0].mean(0)  # as sure as good texts are on the whole
    loop = np.tile([usual, usual * 1.01], (30, 1))
    assert watch.scores(loop).max() >= 1
    assert cp.Watch(texts(length=60), "model", numbers=("guided_logprob",), echoes=False).scores(loop).max() < 1


def test_good_texts_that_are_too_short_for_echoes():
    short = texts(8, length=32)
    watch = cp.Watch(short, "model")
    assert (
        watch.echo is None and watch.echo_bound is None and watch.bound == cp.Watch(short, "model", echoes=False).bound
    )
    longer = cp.Watch([*short[:3], *texts(5, length=33)], "model")
    assert longer.echo is not None and longer.bound > cp.Watch(longer.texts, "model", echoes=False).bound
    largest = [longer.echo.distances(longer._steps(text)).max() for text in longer.texts[3:]]
    assert longer.echo_bound == bound(largest, 0.04)


def test_a_file_of_the_first_version_has_no_echoes(tmp_path):
    watch = cp.Watch(texts(length=60), "model")
    record = watch.to_dict() | {"version": 1}
    del record["echoes"], record["echo_bound"]
    (tmp_path / "old.json").write_text(json.dumps(record))
    old = cp.Watch.load(tmp_path / "old.json")
    assert not old.echoes and old.bound == cp.Watch(watch.texts, "model", echoes=False).bound
    watch.save(tmp_path / "new.json")
    new = cp.Watch.load(tmp_path / "new.json")
    fresh = texts(1, length=60, seed=9)[0]
    assert new.echo_bound == watch.echo_bound and new.scores(fresh).tolist() == watch.scores(fresh).tolist()
