import math

import pytest
import torch

from counterpoint.errors import Failure, NothingLeftError, SamplingError
from counterpoint.sampling import BLOCK, Sampling, draw, draw_rows, generator, processed, tempered

LOGPROBS = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


def probs(prompt_ids=(), output_ids=(), **fields):
    scores = processed(LOGPROBS, Sampling(**fields), prompt_ids=prompt_ids, output_ids=output_ids)
    return scores.softmax(-1).tolist()


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


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6, 1e30, 1e300])
def test_no_temperature_gives_nan(temperature):
    got = probs(temperature=temperature)
    assert sum(got) == pytest.approx(1) and not any(math.isnan(p) for p in got)


def test_greedy_draw_ignores_the_source():
    scores = processed(LOGPROBS, Sampling(temperature=0), prompt_ids=[], output_ids=[])
    assert draw(scores, Sampling(temperature=0), generator(0)) == 0


def test_draws_follow_the_distribution_and_the_seed():
    sampling, source = Sampling(), generator(7)
    ids = [draw(LOGPROBS, sampling, source) for _ in range(1000)]
    assert [ids.count(i) / 1000 for i in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.06)
    again = generator(7)
    assert ids[:50] == [draw(LOGPROBS, sampling, again) for _ in range(50)]
    assert generator(None).initial_seed() != generator(None).initial_seed()


def spread(size, width, seed=0):
    """Log-probabilities of so many tokens; the wider, the fewer are likely."""
    return (width * torch.randn(size, generator=generator(seed))).log_softmax(-1)


def distributions():
    holes = spread(3 * BLOCK + 7, 1.0)
    holes[::3] = -math.inf
    one_block = torch.full((4 * BLOCK,), -math.inf)
    one_block[3::4] = spread(BLOCK, 1.0)
    return {
        "one token": torch.zeros(1),
        "less than a block": spread(5, 1.0),
        "one block": spread(BLOCK, 0.0),
        "one more": spread(BLOCK + 1, 0.0),
        "flat": torch.zeros(5 * BLOCK),
        "peaked": spread(3 * BLOCK + 1, 4.0),
        "one short": spread(4 * BLOCK - 1, 1.0),
        "holes": holes,
        "one block of four": one_block,
        "not normalised": spread(100, 1.0) + 50,
    }


@pytest.mark.parametrize("name", distributions())
def test_draws_pass_a_test_of_fit(name):
    """Chi-square, as a normal variable by Wilson and Hilferty: above 4 once in 30,000 tests."""
    scores, num_rows = distributions()[name], 20_000
    source = generator(11)
    ids = torch.tensor(draw_rows(scores.expand(num_rows, -1), [source] * num_rows))
    expected = num_rows * scores.double().softmax(-1)
    counts = ids.bincount(minlength=len(scores))
    assert len(counts) == len(scores) and not counts[expected == 0].any()
    rare = expected < 10
    cells = torch.stack([counts[~rare], expected[~rare]])
    if expected[rare].sum() > 10:
        cells = torch.cat([cells, torch.stack([counts[rare].sum(), expected[rare].sum()])[:, None]], 1)
    freedom = cells.shape[1] - 1
    if freedom:
        square = float(((cells[0] - cells[1]) ** 2 / cells[1]).sum())
        assert ((square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom)) < 4


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
def test_the_extreme_random_numbers_draw_a_possible_token(monkeypatch, uniform):
    monkeypatch.setattr(torch, "rand", lambda count, **more: torch.full((count,), uniform, dtype=more["dtype"]))
    scores = torch.full((3 * BLOCK,), -math.inf)
    scores[[BLOCK + 5, 2 * BLOCK]] = torch.tensor([0.25, 0.75]).log()
    assert draw(scores, Sampling(), generator(0)) == 2 * BLOCK


def test_a_draw_uses_as_many_random_numbers_whatever_comes_of_it():
    after = []
    for width in (0.0, 1.0, 30.0):
        source = generator(3)
        draw(spread(1000, width), Sampling(), source)
        after.append(source.get_state())
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])


@pytest.mark.parametrize("size", [BLOCK - 1, 4096, 50_257])
def test_rows_are_drawn_as_one_at_a_time(size):
    rows = torch.stack([spread(size, 0.5 * seed, seed) for seed in range(12)])
    temperatures = [1.0, 0.7, 1.3] * 4
    together = tempered(rows, temperatures)
    apart = [
        processed(row, Sampling(temperature=temperature), prompt_ids=[], output_ids=[])
        for row, temperature in zip(rows, temperatures)
    ]
    assert torch.equal(together.softmax(-1), torch.stack([row.softmax(-1) for row in apart]))
    sources, again = ([generator(seed) for seed in range(12)] for _ in range(2))
    for _ in range(3):
        assert draw_rows(together, sources) == [draw(*one) for one in zip(apart, [Sampling()] * 12, again)]


def variation(p, q):
    return float((p - q).abs().sum() / 2)


def least_agreement(p, q):
    """(1 - D1) / (1 + D1) * (1 - D2) / (1 + D2), with the blocks' variation and the mean variation within a block."""
    num_blocks = -(-len(p) // BLOCK)
    p, q = (torch.nn.functional.pad(x, (0, num_blocks * BLOCK - len(x))).view(BLOCK, num_blocks) for x in (p, q))
    both = torch.minimum(p.sum(0), q.sum(0))
    within = (p / p.sum(0) - q / q.sum(0)).abs().sum(0) / 2
    blocks, mean = variation(p.sum(0), q.sum(0)), float((both * within).sum() / both.sum())
    return (1 - blocks) / (1 + blocks) * (1 - mean) / (1 + mean)


@pytest.mark.parametrize("size", [50, 10 * BLOCK - 3])
@pytest.mark.parametrize("change", [0.0, 0.02, 0.1, 0.3])
def test_near_distributions_draw_the_same_as_often_as_the_bound_says(size, change):
    num_rows, one = 4000, spread(size, 2.0)
    other = (one + change * torch.randn(size, generator=generator(1))).log_softmax(-1)
    ids = [
        torch.tensor(draw_rows(scores.expand(num_rows, -1), [source] * num_rows))
        for scores, source in ((one, generator(5)), (other, generator(5)))
    ]
    p, q = one.double().exp(), other.double().exp()
    share, bound, distance = float((ids[0] == ids[1]).double().mean()), least_agreement(p, q), variation(p, q)
    assert bound >= (1 - distance) * (1 - 3 * distance) / (1 + distance) ** 2 - 1e-6
    assert share >= bound - 4 * math.sqrt(bound * (1 - bound) / num_rows) - 1e-6
    if change == 0:
        assert share == 1


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_a_number_is_refused_before_a_random_number_is_used(wrong):
    rows, source = torch.zeros(2, 200), generator(0)
    rows[1, 150] = wrong
    before = source.get_state()
    with pytest.raises(Failure, match="NaN or infinity"):
        draw_rows(rows, [source] * 2)
    assert torch.equal(before, source.get_state())


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
    assert float(scores.softmax(-1).sum()) == pytest.approx(1)
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
