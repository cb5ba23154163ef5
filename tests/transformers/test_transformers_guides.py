import math

import pytest
import torch

from counterpoint.errors import Failure
from counterpoint.formulas import log_probs
from counterpoint.guide import Guide
from counterpoint.transformers.guides import RowGuides

COND = torch.tensor([[0.6, 0.39, 0.01, 1e-5]]).log()
NEGATIVE = torch.tensor([[0.7, 0.29, 0.01, 1e-9]]).log()


def test_the_two_spaces_side_by_side() -> None:
    guides = RowGuides([Guide(scale=3.0), Guide(scale=3.0, space="prob"), Guide(scale=1.0)])
    got = guides.apply(COND.expand(3, -1), NEGATIVE.expand(3, -1), torch.zeros(3, 0)).exp()
    assert torch.allclose(got[0, 3], torch.tensor(0.9988), atol=1e-4)
    assert torch.allclose(got[1], torch.tensor([0.4, 0.59, 0.01, 0.0]), atol=1e-4)
    assert torch.allclose(got[2], log_probs(COND)[0].exp(), atol=1e-6)


def test_start_and_stop() -> None:
    guides = RowGuides([Guide(scale=3.0, start=2, stop=4)])
    assert [guides.needs_negative(step) for step in range(6)] == [False, False, True, True, False, False]
    assert torch.equal(guides.apply(COND, None, torch.zeros(1, 0)), log_probs(COND))
    assert not torch.equal(guides.apply(COND, NEGATIVE, torch.zeros(1, 2)), log_probs(COND))


def test_no_effect_only_where_no_row_has_one() -> None:
    def verdict(*guides: Guide, is_given: bool = True) -> object:
        rows = ["a"] * len(guides), ["b"] * len(guides)
        return RowGuides(guides).no_effect(*rows, is_given=is_given)

    assert verdict(Guide(scale=1.0)).field == "scale"
    assert verdict(Guide(scale=1.0), Guide(scale=2.0)) is None
    assert verdict(Guide(scale=1.0), is_given=False) is None
    assert verdict(Guide(scale=1.0, plausibility=0.1), is_given=False) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("branch", [0, 1])
def test_logits_that_are_no_numbers_are_an_error(bad: float, branch: int) -> None:
    logits = torch.stack([COND, NEGATIVE]).expand(2, 3, -1).clone()
    logits[branch, 1, 2] = bad
    where = "negative" if branch else "prompt"
    with pytest.raises(Failure, match=rf"after 2 generated tokens hold NaN .*\(row 1, the {where}\).*dtype float32"):
        RowGuides([Guide(scale=3.0)] * 3).apply(*logits, torch.zeros(3, 2))


def test_some_tokens_at_minus_infinity_are_none() -> None:
    logits = COND.clone()
    logits[0, 1] = -math.inf
    assert RowGuides([Guide(scale=3.0)]).apply(logits, NEGATIVE, torch.zeros(1, 0))[0, 1] == -math.inf
