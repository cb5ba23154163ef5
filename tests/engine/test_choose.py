"""The best token seen from logits is that of the formula, and where a logit is infinite the formula decides."""

from types import SimpleNamespace

import pytest
import torch

from counterpoint import formulas
from counterpoint.engine.choose import _best_logits

INF = float("inf")


def sequence(cond, others, weights):
    return SimpleNamespace(
        predicted=lambda: [torch.tensor(cond), *map(torch.tensor, others)], needed_weights=torch.tensor(weights)
    )


def by_formula(cond, others, weights):
    rows = formulas.log_probs(torch.tensor([cond, *others]))
    return int(formulas.guided(rows[:1], rows[None, 1:], torch.tensor([weights])).argmax())


def test_several_branches_and_sequences_give_what_the_formula_gives():
    source = torch.Generator().manual_seed(0)
    cases = []
    for _ in range(50):
        logits = (5 * torch.randn(4, 30, generator=source)).bfloat16().float()
        cases.append((logits[0].tolist(), logits[1:].tolist(), torch.randn(3, generator=source).tolist()))
    got = _best_logits([sequence(*case) for case in cases], True)
    assert got == [by_formula(*case) for case in cases]
    assert _best_logits([sequence(*case) for case in cases], False) == [
        max(range(30), key=cond.__getitem__) for cond, _, _ in cases
    ]


@pytest.mark.parametrize(
    "cond, other, weight",
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, -INF], -1.0),  # pushed away from what the other rules out: says nothing
        ([1.0, 2.0, -INF], [3.0, 0.0, -INF], -1.0),
        ([1.0, 2.0, -INF], [1.0, 0.0, 3.0], 0.5),
        ([-INF, -INF, -INF], [1.0, 0.0, 3.0], -1.0),
    ],
)
def test_infinite_logits_are_left_to_the_formula(cond, other, weight):
    assert _best_logits([sequence(cond, [other], [weight])], True) is None


@pytest.mark.parametrize(
    "cond, other, weight", [([1.0, 2.0, -INF], [1.0, 0.0, 3.0], -1.0), ([5.0, 4.0, 3.0], [-INF, 0.0, 1.0], 0.5)]
)
def test_what_is_ruled_out_does_not_keep_the_others_from_being_compared(cond, other, weight):
    assert _best_logits([sequence(cond, [other], [weight])], True) == [by_formula(cond, [other], [weight])]
