"""Many rows with guides of their own get together what each gets alone, and a guide that does not apply changes no bit."""

import random

import torch

from counterpoint import formulas
from counterpoint.guide import Guide
from counterpoint.guiding import combined

KINDS = [
    {},
    {"space": "prob"},
    {"plausibility": 0.1},
    {"space": "prob", "plausibility": 0.3, "gate": 2.0},
    {"adaptive": "jsd", "start": 2, "stop": 5},
    {"gate": 1.5},
]


def rows(num_rows, num_branches, seed=0):
    source = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_rows, 1 + num_branches, 40, generator=source)
    logprobs = formulas.log_probs(logits)
    return logprobs[:, 0], logprobs[:, 1:]


def test_rows_get_together_what_each_gets_alone_from_the_formula():
    source = random.Random(1)
    cond, others = rows(30, 2)
    guides = [Guide(**source.choice(KINDS)) for _ in range(30)]
    weights = [[source.choice([-2.0, -0.5, 0.0, 0.5]), source.choice([-1.0, 0.0])] for _ in range(30)]
    steps = [source.randrange(7) for _ in range(30)]
    together = combined(cond, others, weights, guides, steps)
    for i, (guide, step) in enumerate(zip(guides, steps)):
        want = cond[i]
        if guide.active(step) and (any(weights[i]) or guide.plausibility):
            want = formulas.guided(
                cond[i : i + 1],
                others[i : i + 1],
                torch.tensor([weights[i]]),
                space=guide.space,
                plausibility=torch.tensor([guide.plausibility]) if guide.plausibility else None,
                gate=torch.tensor([guide.gate]) if guide.gate else None,
                adaptive=guide.adaptive is not None,
            )[0]
        torch.testing.assert_close(together[i], want, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            together[i], combined(cond[i : i + 1], others[i : i + 1], [weights[i]], [guide], [step])[0], rtol=0, atol=0
        )


def test_a_row_whose_guide_does_not_apply_keeps_every_bit():
    cond, others = rows(3, 1)
    guides = [Guide(start=3), Guide(stop=1), Guide(space="prob")]
    got = combined(cond, others, [[-1.0], [-1.0], [0.0]], guides, [2, 1, 0])
    assert torch.equal(got, cond)


def test_plausibility_works_without_any_branch():
    cond, others = rows(2, 0)
    got = combined(cond, others, [[], []], [Guide(plausibility=0.5), Guide()], [0, 0])
    assert torch.isneginf(got[0]).any() and torch.equal(got[1], cond[1])
