"""The formulas against numbers worked by hand, and the laws that hold for any input."""

import math

import pytest
import torch

from counterpoint import formulas

COND = [0.6, 0.39, 0.01, 1e-5]
NEG = [0.7, 0.29, 0.01, 1e-9]


def rows(*probs):
    return torch.tensor(probs, dtype=torch.float64).log().float()


def one(cond, *others, weights, **options):
    """Probabilities of one guided row."""
    result = formulas.guided(rows(cond), rows(*others).unsqueeze(0), torch.tensor([weights]), **options)
    return result.exp()[0].tolist()


def test_log_space_lets_a_ratio_win():
    # Unnormalised p_c^3 / p_neg^2: 0.4408, 0.7053, 0.01, 1e-15 / 1e-18 = 1000.
    total = 0.6**3 / 0.7**2 + 0.39**3 / 0.29**2 + 0.01 + 1000
    got = one(COND, NEG, weights=[-2.0], space="log")
    assert got == pytest.approx(
        [0.6**3 / 0.7**2 / total, 0.39**3 / 0.29**2 / total, 0.01 / total, 1000 / total], rel=1e-3
    )
    assert got[3] == pytest.approx(0.9988, abs=1e-4)


def test_prob_space_does_not():
    assert one(COND, NEG, weights=[-2.0], space="prob") == pytest.approx([0.4, 0.59, 0.01, 3e-5], abs=1e-4)


def test_prob_space_clamps_at_zero_and_renormalises():
    # 2 * [.5, .5, 0] - [.9, .05, .05] = [.1, .95, -.05]
    assert one([0.5, 0.5, 1e-30], [0.9, 0.05, 0.05], weights=[-1.0], space="prob") == pytest.approx(
        [0.1 / 1.05, 0.95 / 1.05, 0.0], abs=1e-6
    )


def test_several_branches():
    # q = p_c + .5 * (p_1 - p_c) - .5 * (p_2 - p_c) = p_c + .5 p_1 - .5 p_2
    got = one([0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2], weights=[0.5, -0.5], space="prob")
    assert got == pytest.approx([0.4, 0.2, 0.4], abs=1e-6)
    raw = [0.5 * math.sqrt(0.2 / 0.4), 0.3 * math.sqrt(0.2 / 0.4), 0.2 * math.sqrt(0.6 / 0.2)]
    got = one([0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2], weights=[0.5, -0.5], space="log")
    assert got == pytest.approx([x / sum(raw) for x in raw], abs=1e-6)


def test_plausibility_looks_at_the_conditional_branch_only():
    got = one(COND, NEG, weights=[-2.0], plausibility=torch.tensor([0.1]))
    assert got[2:] == [0.0, 0.0] and sum(got) == pytest.approx(1)
    assert one(COND, NEG, weights=[-2.0], plausibility=torch.tensor([1.0])) == [1.0, 0.0, 0.0, 0.0]


def test_plausibility_keeps_the_very_threshold():
    assert formulas.implausible(rows([0.5, 0.25, 0.25]), torch.tensor([0.4])).tolist() == [[False, False, False]]
    assert formulas.implausible(rows([0.5, 0.25, 0.25]), torch.tensor([0.6])).tolist() == [[False, True, True]]


def test_entropy_and_gate():
    even = [0.25] * 4
    assert formulas.entropy(rows(even)).item() == pytest.approx(math.log(4))
    assert one(even, NEG, weights=[-2.0], gate=torch.tensor([math.log(4) + 0.01])) == pytest.approx(even)
    assert one(even, NEG, weights=[-2.0], gate=torch.tensor([math.log(4) - 0.01])) != pytest.approx(even, abs=1e-2)


def test_jensen_shannon_in_bits():
    cond = rows([1.0, 0.0], [0.5, 0.5], [1.0, 0.0])
    others = rows([0.0, 1.0], [0.5, 0.5], [0.5, 0.5]).unsqueeze(1)
    # Third: m = [.75, .25]; H(m) = .8113 bits, minus (0 + 1) / 2.
    assert formulas.jensen_shannon(cond, others)[:, 0].tolist() == pytest.approx([1.0, 0.0, 0.3113], abs=1e-4)


def test_adaptive_scales_the_weights():
    divergence = formulas.jensen_shannon(rows(COND), rows(NEG).unsqueeze(0)).item()
    assert one(COND, NEG, weights=[-2.0], adaptive=True) == pytest.approx(one(COND, NEG, weights=[-2.0 * divergence]))


@pytest.mark.parametrize("space", ["log", "prob"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.5, -2.0, 1000.0])
def test_equal_branches_change_nothing(space, scale):
    cond = formulas.log_probs(torch.randn(3, 50).bfloat16() * 5)
    got = formulas.guided(cond, cond.unsqueeze(1), torch.full((3, 1), 1 - scale), space=space)
    torch.testing.assert_close(got, cond, rtol=1e-6, atol=1e-5)
    assert torch.equal(got.argmax(-1), cond.argmax(-1))


@pytest.mark.parametrize("space", ["log", "prob"])
def test_scale_zero_is_the_negative(space):
    cond, neg = formulas.log_probs(torch.randn(2, 50)), formulas.log_probs(torch.randn(2, 50))
    got = formulas.guided(cond, neg.unsqueeze(1), torch.ones(2, 1), space=space)
    torch.testing.assert_close(got, neg, rtol=1e-5, atol=1e-5)


def test_never_nan_and_forbidden_stays_forbidden():
    source = torch.Generator().manual_seed(0)
    for _ in range(300):
        branches = int(torch.randint(1, 4, (), generator=source))
        cond = torch.randn(4, 9, generator=source) * 30
        others = torch.randn(4, branches, 9, generator=source) * 30
        cond[torch.rand(4, 9, generator=source) < 0.5] = -torch.inf
        cond[:, 0] = 0.0
        others[torch.rand(4, branches, 9, generator=source) < 0.5] = -torch.inf
        others[:, :, 1] = 0.0
        cond, others = formulas.log_probs(cond), formulas.log_probs(others)
        weights = torch.randn(4, branches, generator=source) * 10
        weights[torch.rand(4, branches, generator=source) < 0.2] = 0.0
        for space in ("log", "prob"):
            for options in ({}, {"plausibility": torch.tensor([0.0, 0.1, 0.5, 1.0])}, {"adaptive": True}):
                got = formulas.guided(cond, others, weights, space=space, gate=torch.full((4,), 0.2), **options)
                assert not got.isnan().any()
                assert torch.isneginf(got[torch.isneginf(cond)]).all()
                assert got.exp().sum(-1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)


@pytest.mark.parametrize("space", ["log", "prob"])
def test_a_branch_that_is_nan_is_not_passed_over(space):
    cond, others = formulas.log_probs(torch.randn(2, 9)), formulas.log_probs(torch.randn(2, 2, 9))
    others[0, 1] = torch.nan
    got = formulas.guided(cond, others, torch.full((2, 2), -0.5), space=space)
    assert got[0].isnan().all() and not got[1].isnan().any()


def test_a_row_does_not_depend_on_the_others():
    cond, others = formulas.log_probs(torch.randn(5, 40)), formulas.log_probs(torch.randn(5, 2, 40))
    weights = torch.randn(5, 2)
    together = formulas.guided(cond, others, weights)
    for i in range(5):
        alone = formulas.guided(cond[i : i + 1], others[i : i + 1], weights[i : i + 1])
        assert torch.equal(alone[0], together[i])


def test_log_probs_are_float32_and_keep_minus_infinity():
    got = formulas.log_probs(torch.tensor([[1.0, -torch.inf, 1.0]], dtype=torch.bfloat16))
    assert got.dtype == torch.float32
    assert got[0, 0].item() == pytest.approx(math.log(0.5)) and got[0, 1].item() == -math.inf


def test_a_settled_choice_is_that_of_the_prompt_whatever_the_others_say():
    def settled(probs, weights):
        return bool(formulas.is_settled(torch.tensor([probs]).log(), torch.tensor([weights]))[0])

    # One negative at scale 3: p1 - p2 must be above (3 - 1) / 3.
    assert settled([0.85, 0.10, 0.05], [-2.0])  # 0.75
    assert not settled([0.80, 0.15, 0.05], [-2.0])  # 0.65
    # A pull and a push: w_c = 1 - 0.5 + 0.5 = 1, so p1 - p2 must be above 0.5 + 0.5.
    assert not settled([0.98, 0.01, 0.01], [0.5, -0.5])
    # w_c = 1.25 after -0.5 and +0.25: 1.25 * 0.88 = 1.1 is above 0.75.
    assert settled([0.92, 0.04, 0.04], [-0.5, 0.25])
    assert not settled([0.9, 0.05, 0.05], [1.5])  # no weight is left for the prompt
    source = torch.Generator().manual_seed(0)
    for _ in range(300):
        cond, *others = (torch.rand(3, 6, generator=source) ** 6).add(1e-6).log().log_softmax(-1)
        weights = torch.rand(1, 2, generator=source) * 1.5 - 1
        if formulas.is_settled(cond[None], weights):
            guided = formulas.guided(cond[None], torch.stack(others)[None], weights, space="prob")
            assert guided.argmax() == cond.argmax()
