"""Which guide is best where documents were answered under some guides only: a logistic model of right and wrong.

    logit P(document d is right under guide g) = guide_g + sigma * document_d

    guide_g ~ Normal(0, 2.5),   document_d ~ Normal(0, 1),   sigma ~ HalfNormal(3)

sampled by NUTS. A guide's rate is the mean over documents of that probability, the documents weighed by one Dirichlet
draw for each draw of the chains, so that it is the rate on documents such as these. Needs `counterpoint[posterior]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterpoint.errors import Failure, UsageError
from counterpoint.evaluate.posterior import Posterior, standings

MOST_R_HAT = 1.01
CHAINS = 4
GUIDE_SPREAD, MOST_DOCUMENT_SPREAD = 2.5, 3.0


def logistic(
    right: ArrayLike,
    guides: Sequence[str],
    *,
    seed: int,
    draws: int = 500,
    attempts: int = 3,
) -> Posterior:
    """The posterior of the guides' rates.

    Args:
        right: (D, G) of 1 and 0; NaN where a document was not answered under a guide.
        guides: G texts.
        draws: of each of four chains, after as many to warm up; doubled at each attempt.
        attempts: how often to sample, until split r-hat is at most 1.01.

    Raises:
        UsageError: values other than 0, 1 and NaN, or a guide without an answer.
        Failure: r-hat is above 1.01 after the last attempt; or numpyro is not installed.
    """
    table = np.asarray(right, dtype=float)
    if table.ndim != 2 or table.shape[1] != len(guides):
        raise UsageError(
            f"values have the shape {table.shape} and there are {len(guides)} guides; give a column for each"
        )
    table = table[~np.isnan(table).all(1)]
    if not set(np.unique(table[~np.isnan(table)])) <= {0.0, 1.0}:
        raise UsageError("the logistic model is for documents that are right or wrong; give 0, 1 and NaN")
    for guide, column in zip(guides, table.T):
        if np.isnan(column).all():
            raise UsageError(f"the guide {guide!r} has no answer; leave it out")
    for attempt in range(attempts):
        sampled = _sample(table, seed + attempt, draws * 2**attempt)
        r_hat, ess = _diagnosed(sampled)
        if r_hat <= MOST_R_HAT:
            rates = _rates(sampled, np.random.default_rng(seed))
            told = standings(rates, guides, higher_is_better=True)
            return Posterior(told, "logistic model by NUTS", len(table), r_hat, ess)
    raise Failure(
        f"the chains of the logistic model disagree (r-hat {r_hat:.3f}, at most {MOST_R_HAT} is believed); give more draws "
        "or more documents"
    )


def _sample(table: NDArray, seed: int, draws: int) -> dict[str, NDArray]:
    """Draws by name, (chains, draws, ...)."""
    documents, columns = np.nonzero(~np.isnan(table))
    sampler = _sampler(*table.shape, draws)
    import jax

    made = sampler(jax.random.PRNGKey(seed), documents, columns, table[documents, columns])
    return {name: np.asarray(value, dtype=float) for name, value in made.items()}


@functools.cache
def _sampler(num_documents: int, num_guides: int, draws: int) -> Callable[..., dict[str, Any]]:
    """The sampler of the model. As one function of jax it is compiled once for each shape; numpyro's own run is anew."""
    try:
        import jax
        import numpyro
        from numpyro import distributions as dist
        from numpyro.infer import MCMC, NUTS
    except ImportError:
        raise Failure("the logistic model needs numpyro; pip install '.[posterior]'") from None

    def model(documents, columns, right) -> None:
        guide = numpyro.sample("guide", dist.Normal(0, GUIDE_SPREAD).expand([num_guides]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(MOST_DOCUMENT_SPREAD))
        document = numpyro.sample("document", dist.Normal(0, 1).expand([num_documents]).to_event(1))
        logits = guide[columns] + sigma * document[documents]
        numpyro.sample("right", dist.Bernoulli(logits=logits).to_event(1), obs=right)

    def run(key, documents, columns, right):
        chains = MCMC(
            NUTS(model), num_warmup=draws, num_samples=draws, num_chains=CHAINS, chain_method="vectorized",
            progress_bar=False,
        )  # fmt: skip
        chains.run(key, documents, columns, right)
        return chains.get_samples(group_by_chain=True)

    return jax.jit(run)


def _diagnosed(sampled: dict[str, NDArray]) -> tuple[float, float]:
    """The largest split r-hat and the smallest effective sample size of guides and sigma."""
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    asked = [sampled["sigma"], *np.moveaxis(sampled["guide"], -1, 0)]
    return max(float(split_gelman_rubin(x)) for x in asked), min(float(effective_sample_size(x)) for x in asked)


def _rates(sampled: dict[str, NDArray], rng: np.random.Generator) -> NDArray:
    """(N, G) rates on documents such as these."""
    guide = sampled["guide"].reshape(-1, sampled["guide"].shape[-1])
    offsets = sampled["sigma"].reshape(-1, 1) * sampled["document"].reshape(len(guide), -1)
    rates = np.empty_like(guide)
    for at, (effects, documents) in enumerate(zip(guide, offsets)):
        weights = rng.standard_exponential(len(documents))
        rates[at] = (weights / weights.sum()) @ (1 / (1 + np.exp(-(effects + documents[:, None]))))
    return rates
