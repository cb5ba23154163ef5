"""Which guide is best, on grids whose answer is known."""

import subprocess
import sys

import numpy as np
import pytest

from counterpoint.errors import Failure, UsageError
from counterpoint.evaluate.posterior import bootstrap, doubts

NAMES = ["one", "two", "three"]


def test_means_and_intervals_are_those_of_theory():
    rng = np.random.default_rng(1)
    right = (rng.random((400, 3)) < [0.3, 0.5, 0.6]).astype(float)
    found = bootstrap(right, NAMES, seed=0)
    for one, column in zip(found.standings, right.T):
        # A Bayesian bootstrap's mean has the spread sqrt(p (1 - p) / (n + 1)).
        spread = np.sqrt(column.mean() * (1 - column.mean()) / 401)
        assert one.value == pytest.approx(column.mean(), abs=3e-3)
        assert (one.high - one.low) / (2 * 1.96) == pytest.approx(spread, rel=0.06)
    assert found.best.guide == "three" and found.num_documents == 400
    assert sum(one.prob_best for one in found.standings) == pytest.approx(1)
    assert [one.expected_loss for one in found.standings][0] == pytest.approx(
        right[:, 2].mean() - right[:, 0].mean(), abs=0.02
    )
    assert found == bootstrap(right, NAMES, seed=0) != bootstrap(right, NAMES, seed=1)


def test_probability_of_being_best_for_two_guides_is_that_of_a_beta():
    from scipy import stats

    # 12 documents that only the second does, 5 that only the first does, 30 that tell nothing, and two of doubt each way:
    # the share of weight on the former is Beta(12 + 2, 5 + 2).
    right = np.array([[0, 1]] * 12 + [[1, 0]] * 5 + [[1, 1]] * 20 + [[0, 0]] * 10, dtype=float)
    found = bootstrap(right, NAMES[:2], seed=3, draws=20_000)
    assert found.standings[1].prob_best == pytest.approx(stats.beta.sf(0.5, 14, 7), abs=0.01)


def test_one_document_settles_nothing():
    right = np.zeros((50, 3))
    assert [one.prob_best for one in bootstrap(right, NAMES, seed=0).standings] == pytest.approx([1 / 3] * 3)
    right[0, 2] = 1
    assert 0.4 < bootstrap(right, NAMES, seed=0).standings[2].prob_best < 0.9
    assert np.ptp(doubts(np.stack([right, np.ones_like(right)], -1))[..., 0].mean(0)) == pytest.approx(0)


def test_ratios_and_metrics_where_low_is_good():
    rng = np.random.default_rng(2)
    lengths = rng.integers(5, 50, (300, 1)).astype(float)
    logprobs = -lengths * (3 + rng.normal(0, 0.3, (300, 3)) - [0, 0.1, -0.2])
    table = np.stack([logprobs, np.repeat(lengths, 3, 1)], -1)
    found = bootstrap(table, NAMES, seed=0, higher_is_better=False, of_mean=lambda mean: np.exp(-mean))
    for g, one in enumerate(found.standings):
        assert one.value == pytest.approx(np.exp(-logprobs[:, g].sum() / lengths.sum()), rel=0.01)
    assert found.best.guide == "two" and found.standings[2].expected_loss > 1


def test_what_is_ruled_out_is_never_best():
    values = np.array([[-1.0, -2.0], [-1.0, -np.inf], [-3.0, -0.5]])
    found = bootstrap(values, NAMES[:2], seed=0, higher_is_better=False, of_mean=lambda mean: np.exp(-mean))
    assert found.best.guide == "one" and found.standings[0].prob_best == 1
    assert found.standings[1].value == np.inf == found.standings[1].high and found.standings[0].expected_loss == 0


def test_bad_input():
    for values, message in (
        ([[1, np.nan]], "incomplete"),
        ([[1, 2, 3]], "a column for each"),
        (np.zeros((0, 2)), "no document"),
    ):
        with pytest.raises(UsageError, match=message):
            bootstrap(values, NAMES[:2], seed=0)


def test_it_needs_no_torch():
    code = "import sys, counterpoint.evaluate.posterior, counterpoint.evaluate.race, counterpoint.evaluate.logistic; assert 'torch' not in sys.modules and 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def incomplete(seed: int, num_documents: int = 150) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (num_documents, 1)) + [-1.0, 0.0, 1.2]
    right = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    # The better guides were asked on the harder documents, so that their own means mislead.
    hard = right.sum(1).argsort() < num_documents // 2
    right[~hard, 2], right[hard, 0] = np.nan, np.nan
    return right


def test_the_logistic_model_sees_through_an_incomplete_grid():
    pytest.importorskip("numpyro")
    from counterpoint.evaluate.logistic import logistic

    found = logistic(incomplete(0), NAMES, seed=0, draws=250)
    assert found.r_hat <= 1.01 and found.ess > 100 and found.method == "logistic model by NUTS"
    assert found.best.guide == "three" and found.best.prob_best > 0.95
    assert [one.low <= one.value <= one.high for one in found.standings] == [True] * 3


def test_chains_that_disagree_are_refused(monkeypatch):
    pytest.importorskip("numpyro")
    from counterpoint.evaluate import logistic

    sizes = []

    def apart(table, seed, draws):
        sizes.append(draws)
        rng = np.random.default_rng(seed)
        shift = np.arange(4)[:, None]
        return {"sigma": rng.normal(size=(4, draws)) + shift, "guide": rng.normal(size=(4, draws, 3)),
                "document": rng.normal(size=(4, draws, len(table)))}  # fmt: skip

    monkeypatch.setattr(logistic, "_sample", apart)
    with pytest.raises(Failure, match="chains of the logistic model disagree"):
        logistic.logistic(incomplete(0), NAMES, seed=0, draws=50)
    assert sizes == [50, 100, 200]


def test_one_shape_is_compiled_once():
    pytest.importorskip("numpyro")
    from counterpoint.evaluate import logistic

    for seed in range(3):
        logistic._sample(incomplete(seed), seed, 20)
    assert logistic._sampler(*incomplete(0).shape, 20)._cache_size() == 1


def test_pyro_is_of_the_same_opinion():
    pytest.importorskip("numpyro")
    pyro = pytest.importorskip("pyro")
    import torch
    from pyro import distributions as dist
    from pyro.infer import MCMC, NUTS

    from counterpoint.evaluate import logistic

    table = incomplete(1, 60)
    documents, columns = (torch.tensor(x) for x in np.nonzero(~np.isnan(table)))
    right = torch.tensor(table[~np.isnan(table)])

    def model():
        guide = pyro.sample("guide", dist.Normal(torch.zeros(3), 2.5).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfNormal(3.0))
        document = pyro.sample("document", dist.Normal(torch.zeros(len(table)), 1).to_event(1))
        pyro.sample("right", dist.Bernoulli(logits=guide[columns] + sigma * document[documents]).to_event(1), obs=right)

    torch.manual_seed(0)
    pyro.set_rng_seed(0)
    chains = MCMC(NUTS(model), num_samples=200, warmup_steps=100, disable_progbar=True)
    chains.run()
    theirs = chains.get_samples()["guide"]
    ours = logistic._sample(table, 0, 300)["guide"].reshape(-1, 3)
    spread = ours.std(0)
    assert np.abs(ours.mean(0) - theirs.mean(0).numpy()).max() < 0.35 * spread.min()
    assert theirs.std(0).numpy() == pytest.approx(spread, rel=0.25)


def test_bad_answers():
    pytest.importorskip("numpyro")
    from counterpoint.evaluate.logistic import logistic

    for values, message in (([[0.5, 1, 0]], "right or wrong"), ([[np.nan, 1, 0]], "'one' has no answer")):
        with pytest.raises(UsageError, match=message):
            logistic(values, NAMES, seed=0)


def test_credible_intervals_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(5), []
    rates = np.array([0.15, 0.4, 0.45])
    for seed in range(400):
        right = (rng.random((150, 3)) < rates).astype(float)
        found = bootstrap(right, NAMES, seed=seed, draws=600)
        held += [one.low <= rate <= one.high for one, rate in zip(found.standings, rates)]
    assert 0.93 <= np.mean(held) <= 0.97


def test_the_page_says_what_was_simulated():
    import json
    from pathlib import Path

    docs = Path(__file__).parents[2] / "docs"
    record, page = (
        json.loads((docs / "posterior.json").read_text()),
        " ".join((docs / "evaluation.md").read_text().split()),
    )
    assert {record[name]["runs"] for name in ("bootstrap", "race", "logistic")} == {1000}
    assert all(0.93 <= record[name]["coverage"] <= 0.97 for name in ("bootstrap", "logistic"))
    assert record["race"]["found with at most that share"] >= 0.95
    for told in (
        f"in {100 * record['bootstrap']['coverage']:.1f} percent of cases",
        f"of the logistic model in {100 * record['logistic']['coverage']:.1f} percent",
        f"in {100 * record['race']['found']:.1f} percent of runs",
        f"takes {100 * record['race']['share of the answers, mean']:.0f} percent of the answers",
    ):
        assert told in page
