import pytest
import torch

from counterpoint import formulas
from counterpoint.guide import Guide
from counterpoint.vllm.branches import branch_id
from counterpoint.vllm.params import Plan
from counterpoint.vllm.rows import Batch, GroupRows

PLAN = Plan(Guide(scale=3.0, space="prob"), ((1,),), (-2.0,))


def batch(names, reads_on=()):
    index = {name: row for row, name in enumerate(names)}
    return Batch.of(
        index,
        lambda name: PLAN if name in ("a", "b") else None,
        reads_on=lambda row: row in reads_on,
        step_of=lambda name, row: 5,
        constrained=lambda name, row: name == "b",
    )


A, B = branch_id("a", 0), branch_id("b", 0)


def test_groups_that_are_there_as_a_whole():
    made = batch([B, "a", "plain", "b", A])
    assert made.groups == (GroupRows(PLAN, 1, (4,), 5), GroupRows(PLAN, 3, (0,), 5, constrained=True))
    assert made.alone == frozenset()


@pytest.mark.parametrize(
    ("names", "reads_on", "alone"),
    [(["a", "plain"], (), {0}), ([A, "plain"], (), {0}), (["a", A], (1,), {0, 1}), (["a", A], (0,), {0, 1})],
)
def test_rows_whose_group_is_not_there(names, reads_on, alone):
    made = batch(names, reads_on)
    assert (made.groups, made.alone) == ((), alone)


def test_the_guided_distribution_is_in_the_requests_rows_alone():
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(1))
    made = batch([B, "a", "plain", "b", A])
    logits[3, :6] = float("-inf")  # a grammar's mask
    before = logits.clone()
    guided = made.guided(logits)
    assert torch.equal(logits, before)
    assert torch.equal(guided[[0, 2, 4]], before[[0, 2, 4]])
    for own, branch, masked in ((1, 4, 0), (3, 0, 6)):
        cond, other = (formulas.log_probs(before[row, masked:]) for row in (own, branch))
        expected = formulas.guided(cond[None], other[None, None], torch.tensor([[-2.0]]), space="prob")[0]
        got = guided[own].exp()
        assert torch.allclose(got[masked:], expected.exp(), atol=1e-6)
        assert not got[:masked].any()


def test_branches_are_given_their_requests_token():
    sampled = torch.tensor([10, 11, 12, 13, 14])
    batch([B, "a", "plain", "b", A]).give(sampled)
    assert sampled.tolist() == [13, 11, 12, 13, 11]
