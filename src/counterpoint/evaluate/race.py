"""A grid that is answered only as far as needed: answers go to the guides still in question. No model, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterpoint.errors import UsageError
from counterpoint.evaluate.posterior import checked, doubts, grouped

#: (documents, guides), both as numbers, to values (documents, guides) or (documents, guides, 2)
Ask = Callable[[list[int], list[int]], NDArray]
DRAWS = 1000
LEAST_DOCUMENTS = 30
ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Race:
    """How it went.

    Args:
        best: number of the guide that was found.
        prob_best: probability that it is the best on all documents, answered or not.
        num_answers, num_grid: answers that were asked for, and those of the full grid.
        answered: (D, G) of bool, which documents were answered under which guide.
        left: number of guides still in question after each round.
    """

    best: int
    prob_best: float
    num_answers: int
    num_grid: int
    answered: NDArray
    left: tuple[int, ...]


def race(
    num_documents: int,
    num_guides: int,
    ask: Ask,
    *,
    until: float,
    seed: int,
    higher_is_better: bool = True,
    of_mean: Callable[[NDArray], NDArray] | None = None,
) -> Race:
    """Answer documents in random order, about a 25th of them a round, under the guides still in question.

    After each round the rest of the grid is imagined many times over: the documents not yet answered are drawn from those
    that were, weighed by a Dirichlet draw (the Bayesian bootstrap of a finite population, Lo 1988), with the imagined
    documents of `posterior.doubts`. A guide that is best on the whole in less than `(1 - until) / (4 * num_guides)` of
    the draws is not asked any more, and that chance of having dropped the best one is remembered. It ends when one guide
    is the best with the probability `until`, that chance subtracted, or when all documents are answered.

    Args:
        until: above 0.5 and below 1.

    Raises:
        UsageError: `until` is out of its range, or there is nothing to answer.
    """
    if not 0.5 < until < 1:
        raise UsageError(f"until is {until}; use a probability above 0.5 and below 1, such as 0.95")
    if num_documents < 1 or num_guides < 1:
        raise UsageError(f"there are {num_documents} documents and {num_guides} guides; give at least one of each")
    rng = np.random.default_rng(seed)
    order = rng.permutation(num_documents)
    answered = np.zeros((num_documents, num_guides), dtype=bool)
    guides, table, at, left, dropped = list(range(num_guides)), None, 0, [], 0.0
    while True:
        step = max(LEAST_DOCUMENTS, -(-num_documents // ROUNDS))
        batch = [int(i) for i in order[at : at + step]]
        found = checked(ask(batch, guides), guides)
        answered[np.ix_(batch, guides)] = True
        table = found if table is None else np.concatenate([table, found])
        at += len(batch)
        prob_best = _prob_best(table, num_documents, rng, higher_is_better, of_mean)
        top = int(prob_best.argmax())
        sure = float(prob_best[top]) * (1 - dropped)
        if sure >= until or at == num_documents or len(guides) == 1:
            left.append(len(guides))
            return Race(guides[top], sure, int(answered.sum()), answered.size, answered, tuple(left))
        kept = [i for i, prob in enumerate(prob_best) if prob >= (1 - until) / (4 * num_guides) or i == top]
        dropped += float(1 - prob_best[kept].sum())
        guides, table = [guides[i] for i in kept], table[:, kept]
        left.append(len(guides))


def _prob_best(
    table: NDArray, num_documents: int, rng: np.random.Generator, higher_is_better: bool, of_mean
) -> NDArray:
    """(G,) probability of being the best over all documents, answered or not. Guides that tie share it."""
    seen, times = grouped(table)
    imagined = doubts(table)
    rows, times = np.concatenate([seen, imagined]), np.concatenate([times, np.ones(len(imagined))])
    unread = num_documents - len(table)
    counts = np.zeros((DRAWS if unread else 1, len(rows)))
    if unread:
        shares = rng.standard_gamma(times, counts.shape)
        counts += rng.multinomial(unread, shares / shares.sum(1, keepdims=True))
    counts[:, : len(seen)] += times[: len(seen)]
    metrics = (counts @ rows[..., 0]) / (counts @ rows[..., 1])
    metrics = metrics if of_mean is None else of_mean(metrics)
    up = metrics if higher_is_better else -metrics
    winners = up == up.max(1, keepdims=True)
    return (winners / winners.sum(1, keepdims=True)).mean(0)


def names_left(race_: Race, guides: Sequence[str]) -> list[str]:
    """The guides that were in question to the end: those answered on most documents."""
    counts = race_.answered.sum(0)
    return [guide for guide, count in zip(guides, counts) if count == counts.max()]
