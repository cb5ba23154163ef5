"""Choices between equals: a made-up index that picks the best keys, and the models of transformers that have one."""

from __future__ import annotations

import pytest
import torch
from sweep.classes import swept

from counterpoint.models.trials import abilities_of
from counterpoint.models.trials.ties import settled_len

MARKS = [4, 8, 16]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while some modules are imported


def index(scores_of, chosen: int):
    """Reads texts by an index of keys and, as every mixture does, by a router whose choices do not depend on lengths."""

    def read(length: int) -> None:
        torch.zeros(3, 5).topk(2)  # a router without a preference
        scores_of(length).topk(min(chosen, length), dim=-1)

    return read


def distinct(length: int) -> torch.Tensor:
    return torch.arange(length, dtype=torch.float32).expand(2, length)


def with_zeros(length: int) -> torch.Tensor:
    """relu leaves the same score to all keys that it rules out."""
    return torch.relu(distinct(length) - length + 3)


def masked(length: int) -> torch.Tensor:
    scores = distinct(length).clone()
    scores[:, : length // 2] = -torch.inf
    return scores


def test_lengths_up_to_which_nothing_is_left_out() -> None:
    assert settled_len(index(with_zeros, 8), MARKS, 20) == 8
    assert settled_len(index(with_zeros, 9), MARKS, 20) == 8
    assert settled_len(index(with_zeros, 3), MARKS, 20) == 0


def test_no_equals_no_limit() -> None:
    assert settled_len(index(distinct, 8), MARKS, 20) is None
    assert settled_len(index(masked, 12), MARKS, 20) is None  # what a mask rules out is nobody's equal
    assert settled_len(index(with_zeros, 2), MARKS, 20) is None  # chosen from those that differ


@pytest.mark.parametrize("name", ["DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM", "AXK2ForCausalLM"])
def test_past_its_index_a_model_is_read_anew(name: str) -> None:
    if name not in swept():
        pytest.skip("not in this transformers")
    model = swept()[name].model()
    found = abilities_of(model)
    assert found.manner.anew_from in (0, 8) and not found.padded.holds(9)  # 0: its cache is of no use at all
