"""The best assignment against brute force."""

import itertools
import random

import numpy as np
import pytest
from scipy.optimize import LinearConstraint

from counterpoint.assignment.best import Bounds, best_assignment
from counterpoint.errors import UsageError


def totals(scores, keeps):
    """Every assignment that is kept, best first."""
    num, width = scores.shape
    ways = [way for way in itertools.product(range(width), repeat=num) if keeps(way)]
    return sorted(((float(scores[range(num), way].sum()), way) for way in ways), reverse=True)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_best_of_all_and_the_runner_up_the_second(seed):
    source = random.Random(seed)
    num, names = source.randint(2, 6), ["a", "b", "c"][: source.randint(2, 3)]
    width = len(names)
    scores = np.array([[source.uniform(-9, 0) for _ in names] for _ in range(num)])
    most = [source.randint(1, num) for _ in names]
    most[0] = max(most[0], num - sum(most[1:]))
    least = source.randint(0, min(1, most[1], num - 1))
    apart = np.zeros((1, num, width))
    apart[0, 0, 0] = apart[0, 1, 0] = 1
    rules = [LinearConstraint(apart.reshape(1, -1), -np.inf, 1)] if seed % 2 else None
    capacity = {name: (least if i == 1 else None, most[i]) for i, name in enumerate(names)}

    def keeps(way):
        counts = [way.count(j) for j in range(width)]
        is_apart = not rules or not way[0] == way[1] == 0
        return all(c <= m for c, m in zip(counts, most)) and counts[1] >= least and is_apart

    ways = totals(scores, keeps)
    if not ways:
        with pytest.raises(UsageError):
            Bounds(num, names, capacity, rules)
        return
    done = best_assignment(scores, Bounds(num, names, capacity, rules))
    assert done.chosen == ways[0][1] and done.total == pytest.approx(ways[0][0])
    assert done.loss == pytest.approx(float(scores.max(1).sum()) - ways[0][0])
    assert (done.runner_up_loss is None) == (len(ways) == 1)
    if len(ways) > 1:
        assert done.runner_up_loss == pytest.approx(ways[0][0] - ways[1][0], abs=1e-6)


def test_prices_are_what_one_more_place_is_worth():
    """Without rules the relaxation is exact: a price is at least what one more place brings, and one fewer costs more."""
    source = np.random.default_rng(0)
    scores, names = source.uniform(-5, 0, (40, 3)), ["a", "b", "c"]
    room = {"a": 10, "b": 12, "c": 20}
    done = best_assignment(scores, Bounds(40, names, room, None))
    for i, name in enumerate(names):
        gain = best_assignment(scores, Bounds(40, names, room | {name: room[name] + 1}, None)).total - done.total
        assert gain <= done.prices[i] + 1e-9
        if sum(room.values()) > 40:
            loss = done.total - best_assignment(scores, Bounds(40, names, room | {name: room[name] - 1}, None)).total
            assert loss >= done.prices[i] - 1e-9
    assert max(done.prices) > 0 and done.floor_prices == (0, 0, 0)
    forced = best_assignment(scores, Bounds(40, names, {"c": (35, None)}, None))
    assert forced.chosen.count(2) == 35 and forced.floor_prices[2] > 0


def test_what_is_ruled_out_is_never_given():
    scores = np.array([[-1.0, -np.inf], [-1.0, -5.0]])
    assert best_assignment(scores, Bounds(2, ["a", "b"], {"a": 1}, None)).chosen == (0, 1)
    with pytest.raises(UsageError, match="guidance rules out 2 pairs"):
        best_assignment(np.array([[-1.0, -np.inf], [-1.0, -np.inf]]), Bounds(2, ["a", "b"], {"a": 1}, None))


@pytest.mark.parametrize(
    "capacity, rules, message",
    [
        ({"a": 1, "b": 1}, None, "there are 3 prompts and room for 2"),
        ({"a": (2, 3), "b": (2, 3)}, None, "get 4 at least"),
        ({"c": 1}, None, "capacity has 'c', which is no option; they are a, b"),
        ({"a": -1}, None, "the capacity of 'a' is -1"),
        ({"a": 1.5}, None, "use a count"),
        ({"a": (2, 1)}, None, "2 prompts at least and 1 at most"),
        (None, "a <= b", "use scipy.optimize.LinearConstraint"),
        (None, LinearConstraint(np.ones((1, 2)), 0, 1), "a rule has 2 columns and there are 6"),
        (None, LinearConstraint(np.ones((1, 6)), 0, 2), "no assignment keeps the capacities and rules"),
    ],
)
def test_mistakes_are_told_before_any_score(capacity, rules, message):
    with pytest.raises(UsageError, match=message):
        Bounds(3, ["a", "b"], capacity, rules)
