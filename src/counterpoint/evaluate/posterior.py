"""Which guide is best, and how sure that is. Plain numbers in, plain numbers out; no model and no torch.

The Bayesian bootstrap (Rubin 1981) over documents: each draw weighs the documents by one Dirichlet(1, ..., 1), the same
weights for all guides, and takes every guide's metric under them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterpoint.errors import UsageError

LEVEL = 0.95
DRAWS = 4000
_AT_ONCE = 2_000_000  # weights drawn together


@dataclass(frozen=True, slots=True)
class Standing:
    """What is believed of one guide.

    Args:
        guide: its text form.
        value, low, high: posterior mean of its metric, and the ends of the 95 percent credible interval.
        prob_best: probability that no other guide is better; guides that tie share it.
        expected_loss: how much worse than the best guide it is on average, in the metric's unit, 0 or more.
    """

    guide: str
    value: float
    low: float
    high: float
    prob_best: float
    expected_loss: float


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is believed of all guides on one metric.

    Args:
        standings: in the order of the guides.
        method: "Bayesian bootstrap", or "logistic model by NUTS".
        num_documents: how many were answered under at least one guide.
        r_hat, ess: the largest split r-hat and the smallest effective sample size; None where nothing was sampled by
            a chain.
    """

    standings: tuple[Standing, ...]
    method: str
    num_documents: int
    r_hat: float | None = None
    ess: float | None = None

    @property
    def best(self) -> Standing:
        """The guide that is most probably the best; the first of those that tie."""
        return max(self.standings, key=lambda one: one.prob_best)


def bootstrap(
    values: ArrayLike,
    guides: Sequence[str],
    *,
    seed: int,
    higher_is_better: bool = True,
    of_mean: Callable[[NDArray], NDArray] | None = None,
    draws: int = DRAWS,
) -> Posterior:
    """The posterior by the Bayesian bootstrap over documents that all guides have answered.

    A metric is `of_mean(sum_d w_d * a_dg / sum_d w_d * b_dg)`. For the probability of being best and the expected loss
    there are two imagined documents a guide beside the real ones, see `doubts`.

    Args:
        values: (D, G) of a, where b is 1; or (D, G, 2) of a and b.
        guides: G texts.
        of_mean: a monotone function; None changes nothing.
        draws: of the weights.

    Raises:
        UsageError: there is no document, a value is missing, or the numbers of guides differ.
    """
    table = checked(values, guides)
    of_mean = of_mean or (lambda mean: mean)
    plain, doubted = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    metrics = of_mean(_metrics(table, plain, draws))
    decided = of_mean(_metrics(np.concatenate([table, doubts(table)]), doubted, draws))
    return Posterior(
        standings(metrics, guides, higher_is_better=higher_is_better, decided=decided), "Bayesian bootstrap", len(table)
    )


def checked(values: ArrayLike, guides: Sequence[str]) -> NDArray:
    """The values as (D, G, 2) of numerators and denominators.

    Raises:
        UsageError: there is no document, a value is missing, or the numbers of guides differ.
    """
    table = np.asarray(values, dtype=float)
    if table.ndim == 2:
        table = np.stack([table, np.ones_like(table)], -1)
    if table.ndim != 3 or table.shape[-1] != 2 or table.shape[1] != len(guides) or not len(guides):
        raise UsageError(
            f"values have the shape {table.shape} and there are {len(guides)} guides; give a column for each"
        )
    if not len(table):
        raise UsageError("there is no document to measure; use a task with at least one")
    if np.isnan(table).any():
        raise UsageError("a document has no answer under some guide; use the logistic model for incomplete grids")
    return table


def doubts(table: NDArray) -> NDArray:
    """Two imagined documents for each guide: one that it alone does well, and one that it alone does badly.

    Without them one document that tells two guides apart would settle which is better, since weights are positive.
    They are as far apart as the guides are, root mean square, on documents where they differ.

    Args:
        table: (D, G, 2).

    Returns:
        (2 G, G, 2), with the same mean for every guide.
    """
    ratios = table[..., 0] / table[..., 1]  # (D, G)
    finite = ratios[np.isfinite(ratios).all(1)]
    middle, size = 0.0, 0.0
    if len(finite):
        middle = float(finite.mean())
        apart = finite - finite.mean(1, keepdims=True)
        differs = np.ptp(finite, axis=1) > 0
        size = float(np.sqrt(np.square(apart[differs]).mean())) if differs.any() else 0.0
    num_guides = table.shape[1]
    alone = 2 * np.eye(num_guides) - 1  # 1 for the guide itself, -1 for the others
    share = table[..., 1].mean()
    rows = np.concatenate([middle + size * alone, middle - size * alone])
    return np.stack([rows * share, np.full_like(rows, share)], -1)


def standings(
    metrics: NDArray, guides: Sequence[str], *, higher_is_better: bool, decided: NDArray | None = None
) -> tuple[Standing, ...]:
    """Draws of every guide's metric, summed up.

    Args:
        metrics: (N, G) draws, for values and intervals.
        decided: (N, G) draws for the probability of being best and the loss; None takes `metrics`.
    """
    decided = metrics if decided is None else decided
    up = decided if higher_is_better else -decided
    best = up.max(1, keepdims=True)
    winners = up == best
    prob_best = (winners / winners.sum(1, keepdims=True)).mean(0)
    with np.errstate(invalid="ignore"):
        loss = np.where(winners, 0.0, best - up).mean(0)
    tail = 100 * (1 - LEVEL) / 2
    low, high = (_percentile(metrics, at) for at in (tail, 100 - tail))
    return tuple(
        Standing(guide, float(metrics[:, g].mean()), low[g], high[g], float(prob_best[g]), float(loss[g]))
        for g, guide in enumerate(guides)
    )


def _percentile(metrics: NDArray, at: float) -> list[float]:
    """Of each column; an order statistic, so that infinite values stay what they are."""
    return [float(value) for value in np.percentile(metrics, at, axis=0, method="nearest")]


def grouped(table: NDArray) -> tuple[NDArray, NDArray]:
    """Documents that are alike as one row: (D, G, 2) -> (R, G, 2) and (R,) how many. The weights of n of them together are
    one Gamma(n), so that the draws' distribution is the same, and right and wrong make few rows."""
    rows, counts = np.unique(table.reshape(len(table), -1), axis=0, return_counts=True)
    return rows.reshape(-1, *table.shape[1:]), counts


def _metrics(table: NDArray, rng: np.random.Generator, draws: int) -> NDArray:
    """(draws, G) weighted means. Weights of a Dirichlet are gammas over their sum, which a ratio cancels."""
    rows, counts = grouped(table)
    found, step = [], max(1, _AT_ONCE // len(rows))
    for at in range(0, draws, step):
        weights = rng.standard_gamma(counts, (min(step, draws - at), len(rows)))
        found.append((weights @ rows[..., 0]) / (weights @ rows[..., 1]))
    return np.concatenate(found)
