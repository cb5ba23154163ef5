import math

import pytest
import torch

from counterpoint.errors import NothingLeftError, SamplingError
from counterpoint.sampling import Sampling, draw, generator, processed

LOGPROBS = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


def probs(prompt_ids=(), output_ids=(), **fields):
    scores = processed(LOGPROBS, Sampling(**fields), prompt_ids=prompt_ids, output_ids=output_ids)
    return scores.exp().tolist()


def test_each_step_by_hand():
    assert probs() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert probs(temperature=0.5) == pytest.approx([x / 0.3 for x in (0.16, 0.09, 0.04, 0.01)])
    assert probs(top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert probs(top_p=0.5) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert probs(top_p=0.39) == pytest.approx([1, 0, 0, 0])
    assert probs(min_p=0.6) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert probs(min_p=1.0) == pytest.approx([1, 0, 0, 0])


def test_penalties_by_hand():
    weights = [0.4**2, 0.3, 0.2, 0.1]
    assert probs(prompt_ids=[0], repetition_penalty=2.0) == pytest.approx([w / sum(weights) for w in weights])
    weights = [0.4, 0.3 * math.exp(-1 - 2 * 0.5), 0.2, 0.1]
    got = probs(prompt_ids=[0], output_ids=[1, 1], presence_penalty=1.0, frequency_penalty=0.5)
    assert got == pytest.approx([w / sum(weights) for w in weights])
    weights = [0.0, 0.3, 0.2, 0.1 * math.e]
    assert probs(logit_bias={0: -math.inf, 3: 1.0}) == pytest.approx([w / sum(weights) for w in weights])


def test_the_input_is_left_alone():
    before = LOGPROBS.clone()
    probs(logit_bias={0: -5.0}, top_k=1, temperature=0.1)
    assert torch.equal(before, LOGPROBS)


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6, 1e30])
def test_no_temperature_gives_nan(temperature):
    got = probs(temperature=temperature)
    assert sum(got) == pytest.approx(1) and not any(math.isnan(p) for p in got)


def test_greedy_draw_ignores_the_source():
    scores = processed(LOGPROBS, Sampling(temperature=0), prompt_ids=[], output_ids=[])
    assert draw(scores, Sampling(temperature=0), generator(0)) == 0


def test_draws_follow_the_distribution_and_the_seed():
    sampling, source = Sampling(), generator(7)
    ids = [draw(LOGPROBS, sampling, source) for _ in range(4000)]
    assert [ids.count(i) / 4000 for i in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)
    again = generator(7)
    assert ids[:50] == [draw(LOGPROBS, sampling, again) for _ in range(50)]
    assert generator(None).initial_seed() != generator(None).initial_seed()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.inf},
        {"logit_bias": {-1: 0.0}},
        {"logit_bias": {0: math.nan}},
    ],
)
def test_out_of_range(fields):
    with pytest.raises(SamplingError, match=next(iter(fields))):
        Sampling(**fields)


def test_a_biased_token_outside_the_vocabulary():
    with pytest.raises(SamplingError, match="ids end at 3"):
        probs(logit_bias={4: 1.0})


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 5e-324},
        {"temperature": 4.8e-175, "top_k": 2},
        {"top_p": 5e-324},
        {"min_p": 5e-324},
        {"repetition_penalty": 5e-324},
        {"repetition_penalty": 1e300},
    ],
)
def test_numbers_that_float32_can_not_hold_make_no_nan(extreme):
    logprobs = torch.tensor([0.5, 0.3, 0.2, 0.0]).log()
    sampling = Sampling(**extreme)
    scores = processed(logprobs, sampling, prompt_ids=[3], output_ids=[0])
    assert float(scores.exp().sum()) == pytest.approx(1)
    assert not scores.isnan().any() and scores[3] == -float("inf")
    assert draw(scores, sampling, generator(0)) in (0, 1, 2)


def sorted_nucleus(scores, top_p):
    """The plain way: sort all, count until the sum is reached."""
    kept, total = set(), 0.0
    for token_id in sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i)):
        if kept and total >= top_p:
            break
        kept.add(token_id)
        total += float(scores[token_id].exp())
    return kept


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [1e-30, 0.1, 0.5, 0.95])
def test_the_nucleus_is_that_of_a_full_sort(spread, top_p):
    torch.manual_seed(0)
    scores = torch.log_softmax((spread * torch.randn(3000)).round(decimals=1), -1)  # rounded, so that many are equal
    got = processed(scores, Sampling(top_p=top_p), prompt_ids=[], output_ids=[])
    want = sorted_nucleus(scores.double(), top_p)
    assert abs(len(set(got.isfinite().nonzero().flatten().tolist()) ^ want)) <= 1  # the sum's rounding at the edge


def test_nothing_left_is_an_error():
    for fields in ({}, {"temperature": 0}):
        with pytest.raises(NothingLeftError, match="no token is left to choose after 2 generated"):
            processed(
                LOGPROBS, Sampling(**fields), prompt_ids=[], output_ids=[1, 2],
                processors=[lambda prompt, output, scores: scores - math.inf],
            )  # fmt: skip
