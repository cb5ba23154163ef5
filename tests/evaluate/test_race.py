"""Grids that are answered only as far as needed."""

import numpy as np
import pytest

from counterpoint.errors import UsageError
from counterpoint.evaluate.race import race


def grid(seed: int, effects: list[float], num_documents: int = 600) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_documents, 1)) + effects
    return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)


def run(table: np.ndarray, **options):
    asked = []

    def ask(documents, guides):
        asked.append((tuple(documents), tuple(guides)))
        return table[np.ix_(documents, guides)]

    return race(*table.shape, ask, **{"until": 0.95, "seed": 0, **options}), asked


def test_a_clear_winner_is_found_early_and_nothing_is_asked_twice():
    table = grid(1, [-1.5, -1, -0.5, 0.8])
    went, asked = run(table)
    assert went.best == table.mean(0).argmax() == 3 and went.prob_best >= 0.95
    assert went.num_answers == went.answered.sum() < 0.4 * went.num_grid == 0.4 * table.size
    pairs = [(doc, guide) for docs, guides in asked for doc in docs for guide in guides]
    assert len(set(pairs)) == len(pairs) == went.num_answers
    # Guides only leave.
    assert all(set(later) <= set(earlier) for (_, earlier), (_, later) in zip(asked, asked[1:]))
    assert run(table)[0].num_answers == went.num_answers


def test_guides_that_tie_are_answered_to_the_end():
    table = grid(2, [0.0, 0.0])
    table[:, 1] = table[:, 0]
    went, _ = run(table)
    assert went.num_answers == went.num_grid and went.prob_best == pytest.approx(0.5) and went.left[-1] == 2


def test_the_end_of_the_documents_is_the_truth():
    table = grid(3, [0.0, 0.05], num_documents=40)
    went, _ = run(table, until=0.999)
    assert went.answered.all() and table.mean(0)[went.best] == table.mean(0).max()


def test_low_can_be_good():
    values = -np.random.default_rng(4).gamma(2, 1, (300, 1)) - np.array([[0.0, 0.6, 1.2]])
    went, _ = run(values, higher_is_better=False, of_mean=lambda mean: np.exp(-mean))
    assert went.best == 0 and went.num_answers < went.num_grid


def test_twenty_grids_are_won_by_the_full_grids_guide():
    found, shares = 0, []
    for seed in range(20):
        table = grid(seed, list(np.random.default_rng([seed, 9]).normal(0, 0.8, 6)), num_documents=500)
        went, _ = run(table, seed=seed)
        found += table.mean(0)[went.best] == table.mean(0).max()
        shares.append(went.num_answers / went.num_grid)
    assert found >= 19 and np.mean(shares) < 0.5


@pytest.mark.parametrize("until", [0.5, 1.0, 95])
def test_bad_probabilities(until):
    with pytest.raises(UsageError, match="such as 0.95"):
        run(grid(1, [0, 1]), until=until)
