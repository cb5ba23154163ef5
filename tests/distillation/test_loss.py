"""Divergences by hand on four tokens."""

import math

import pytest
import torch

from counterpoint.distillation.loss import divergence, surprise
from counterpoint.distillation.targets import Target, _cut

GOAL = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.7]])
OWN = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]])
FULL = [
    0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.8),
    0.1 * math.log(0.25) + 0.1 * math.log(1 / 3) + 0.1 * math.log(0.5) + 0.7 * math.log(7),
]


def test_all_tokens_told_apart():
    assert divergence(Target(GOAL.log()), OWN.log()).tolist() == pytest.approx(FULL, abs=1e-6)


def test_the_two_most_probable_and_all_others_as_one():
    target = _cut(GOAL.log(), 2)
    assert target.ids[0].tolist() == [0, 1] and target.rest.exp().tolist() == pytest.approx([0.2, 0.2])
    second = 0.1 * math.log(0.1 / OWN[1, target.ids[1, 1]].item())
    rest = 1 - 0.1 - OWN[1, target.ids[1, 1]].item()
    want = [
        0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.2 / 0.5),
        0.7 * math.log(7) + second + 0.2 * math.log(0.2 / rest),
    ]
    found = divergence(target, OWN.log())
    assert found.tolist() == pytest.approx(want, abs=1e-6)
    assert (found <= torch.tensor(FULL) + 1e-6).all()


def test_more_tokens_told_apart_come_nearer_to_all():
    goal, own = torch.randn(5, 40).log_softmax(-1), torch.randn(5, 40).log_softmax(-1)
    found = [divergence(_cut(goal, top), own).mean().item() for top in (1, 4, 16, 40, 0)]
    assert found == sorted(found) and found[-2] == pytest.approx(found[-1], abs=1e-6)


@pytest.mark.parametrize("top", [0, 2, 3])
def test_what_guidance_rules_out_counts_for_nothing_and_gives_no_nan(top):
    goal = torch.tensor([[0.6, 0.4, 0.0, 0.0]]).log()
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    loss = divergence(_cut(goal, top), logits.log_softmax(-1)).sum()
    loss.backward()
    own = logits.detach().softmax(-1)[0]
    assert loss.item() == pytest.approx(0.6 * math.log(0.6 / own[0]) + 0.4 * math.log(0.4 / own[1]), abs=1e-5)
    # The gradient of KL with respect to logits is p - g.
    assert logits.grad[0].tolist() == pytest.approx((own - goal.exp()[0]).tolist(), abs=1e-5)


def test_surprise_is_that_of_the_answers_tokens():
    assert surprise(torch.tensor([1, 3]), OWN.log()).tolist() == pytest.approx([math.log(4), math.log(10)])
