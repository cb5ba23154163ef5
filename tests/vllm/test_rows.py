import pytest
import torch
from torch.overrides import TorchFunctionMode

from counterpoint import formulas, guiding
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


class Waits(TorchFunctionMode):
    """Calls that make the host wait for a GPU, since numbers go there or come back."""

    CALLS = (
        torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor, torch.Tensor.to, torch.Tensor.cpu,
        torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.nonzero,
    )  # fmt: skip

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in self.CALLS, f"{function} waits for the GPU"
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_gpu(monkeypatch):
    """The model may still be at work there while the rows are combined; only `guiding.sent` sends, and does not wait."""

    def sent(values, device, dtype=torch.long):
        with torch._C.DisableTorchFunction():
            return torch.empty(torch.tensor(values).shape, dtype=dtype, device=device)

    guides = [
        Guide(scale=3.0), Guide(scale=3.0, space="prob", plausibility=0.1), Guide(scale=2.0, gate=0.5),
        Guide(scale=2.0, adaptive="jsd"), Guide(scale=2.0), Guide(scale=2.0),
    ]  # fmt: skip
    groups = [
        GroupRows(Plan(guide, ((1,),), (-1.0,)), row, (row + 6,), 5, constrained=row > 3)
        for row, guide in enumerate(guides)
    ]
    step, meta = Batch(tuple(groups)), {"device": "meta"}  # no values: whatever asks for one fails
    with Waits():
        with pytest.raises(AssertionError, match="waits for the GPU"):
            step.give(torch.empty(12, dtype=torch.long, **meta))
        monkeypatch.setattr(guiding, "sent", sent)
        step.give(torch.empty(12, dtype=torch.long, **meta))
        assert step.guided(torch.empty(12, 7, dtype=torch.bfloat16, **meta)).shape == (12, 7)
