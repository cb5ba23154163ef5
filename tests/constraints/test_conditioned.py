"""Conditioned branches are those of a vocabulary that has the allowed tokens and no others: guidance is never dropped."""

import random

import pytest
import torch

from counterpoint import formulas
from counterpoint.guide import Guide
from counterpoint.guiding import combined

KINDS = [
    {},
    {"space": "prob"},
    {"plausibility": 0.1},
    {"space": "prob", "plausibility": 0.3},
    {"gate": 1.0},
    {"space": "prob", "gate": 0.5},
    {"adaptive": "jsd"},
    {"space": "prob", "adaptive": "jsd"},
]


def cases(num=400):
    source, numbers = torch.Generator().manual_seed(0), random.Random(0)
    for _ in range(num):
        num_branches, size = numbers.randint(1, 3), numbers.choice([12, 60])
        logits = numbers.choice([1, 4, 12]) * torch.randn(1, 1 + num_branches, size, generator=source)
        allowed = torch.rand(1, size, generator=source) < numbers.choice([0.05, 0.3, 0.9])
        allowed[0, numbers.randrange(size)] = True
        weights = [[numbers.choice([-3.0, -1.0, -0.25, 0.5]) for _ in range(num_branches)]]
        yield logits, allowed, weights, Guide(**numbers.choice(KINDS))


def test_guidance_of_conditioned_branches_is_guidance_on_the_allowed_tokens_alone():
    for logits, allowed, weights, guide in cases():
        own = formulas.conditioned(logits, allowed)
        got = combined(own[:, 0], own[:, 1:], weights, [guide], [0])
        few = formulas.log_probs(logits[..., allowed[0]])
        want = combined(few[:, 0], few[:, 1:], weights, [guide], [0])
        torch.testing.assert_close(got[:, allowed[0]], want, rtol=1e-4, atol=1e-4)
        assert torch.isneginf(got[:, ~allowed[0]]).all()
        assert not got.isnan().any()


def test_a_mask_that_comes_last_does_drop_guidance():
    """What the order is for: applied last, a mask leaves nothing of what guidance left in some of these cases."""
    dropped = 0
    for logits, allowed, weights, guide in cases():
        own = formulas.log_probs(logits)
        guided = combined(own[:, 0], own[:, 1:], weights, [guide], [0])
        dropped += bool(torch.isneginf(guided[allowed]).all())
    assert dropped > 20


def test_in_log_space_without_refinements_the_order_does_not_matter():
    for logits, allowed, weights, _ in cases(60):
        own, whole = formulas.conditioned(logits, allowed), formulas.log_probs(logits)
        first = combined(own[:, 0], own[:, 1:], weights, [Guide()], [0])
        last = combined(whole[:, 0], whole[:, 1:], weights, [Guide()], [0]).masked_fill(~allowed, -torch.inf)
        torch.testing.assert_close(first, last.log_softmax(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_hand(dtype):
    logits = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]]).log().to(dtype)
    got = formulas.conditioned(logits, torch.tensor([[True, False, True]])).exp()
    want = torch.tensor([[[6 / 7, 0, 1 / 7], [1 / 4, 0, 3 / 4]]])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_branches_that_rule_out_all_that_is_allowed():
    inf = float("inf")
    logits = torch.tensor([[[0.0, 1.0, 2.0], [5.0, -inf, -inf]], [[-inf, 1.0, -inf], [0.0, 1.0, 2.0]]])
    got = formulas.conditioned(logits, torch.tensor([[False, True, True], [True, False, True]]))
    torch.testing.assert_close(got[0, 1], got[0, 0])  # says nothing: taken for the prompt's
    assert torch.isneginf(got[1, 0]).all() and not got.isnan().any()


def test_mass():
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log() + 3
    allowed = torch.tensor([[True, False, True], [False, True, True]])
    torch.testing.assert_close(formulas.mass(logits, allowed), torch.tensor([0.75, 0.0]))
