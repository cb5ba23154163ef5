import dataclasses

import pytest

import counterpoint as cp
from counterpoint.report.metrics import distinct, measure
from counterpoint.report.shades import notable, shade
from counterpoint.trace import Seen, Step, Trace


def step(index, token_id, cond, negative=None, guided=-1.0, rank=1):
    def seen(logprob):
        return Seen(logprob, rank, ((token_id, logprob),))

    branches = () if negative is None else (seen(negative),)
    return Step(
        index, token_id, "x", "applied", False, 1.0, 0.1, (0.2,) * len(branches), seen(cond), branches, seen(guided)
    )


def trace(*steps):
    return Trace(
        model="m", prompt="p", branches=(), guide=cp.Guide(), sampling={}, seed=None, sample=0, limits=cp.trace.ArtefactLimits(),
        labels={}, steps=steps, text="x", finish_reason="stop",
    )  # fmt: skip


def test_by_hand():
    # ids 1 2 1 2 | 1: five tokens, two of them different; 2-grams 12 21 12, two of three different; 3-grams 121 212.
    a = trace(step(0, 1, -1.0, -3.0), step(1, 2, -2.0, -2.5), step(2, 1, -9.0, None, rank=60), step(3, 2, -3.0, -3.0))
    b = trace(step(0, 1, -5.0))
    m = measure([a.with_limits(a.limits), b])
    assert m.distinct == (2 / 5, 2 / 3, 1.0)
    assert m.mean_logprob == pytest.approx(-20 / 5)
    assert m.contrast == pytest.approx((2.0 + 0.5 + 0.0) / 3)
    assert (m.num_tokens, m.num_artefacts, m.artefact_rate) == (5, 1, 0.2)


def test_where_there_is_nothing_to_measure():
    one = measure([trace(step(0, 1, float("-inf")))])
    assert one.contrast is None and one.distinct == (1.0, None, None)
    assert one.to_dict()["mean_logprob"] is None
    assert distinct([trace(step(0, 1, -1.0))], 2) is None


@pytest.mark.parametrize(
    ("push", "level"), [(0.0, 0), (0.24, 0), (0.25, 1), (1.0, 2), (3.5, 3), (-0.3, -1), (-1.2, -2), (-9.0, -3)]
)
def test_shades(push, level):
    assert shade(step(0, 1, -1.0 - push, guided=-1.0)) == level


def test_notable_steps_are_artefacts_then_the_most_changed():
    steps = [dataclasses.replace(step(i, 1, -1.0 - i, guided=-1.0), artefact=i == 1) for i in range(5)]
    assert [s.index for s in notable(tuple(steps), num=3)] == [1, 4, 3]
