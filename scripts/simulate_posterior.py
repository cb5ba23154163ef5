"""How far `counterpoint.evaluate`'s posteriors can be believed, on made-up grids whose truth is known.

    python scripts/simulate_posterior.py --out docs/posterior.json

Each run draws guides and documents anew: a document is right under a guide with a probability whose logit is the guide's
effect, the document's, and one of their own. Counted are the 95 percent intervals that hold the guide's true rate, and
how often `race` finds the guide that the full grid would have found, with what share of its answers. The same command
again continues after a kill.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterpoint.evaluate.posterior import bootstrap
from counterpoint.evaluate.race import race
from counterpoint.store import Store, key_of

ROOT = Path(__file__).parent.parent
NUM_GUIDES = 8
GUIDE_SPREAD, DOCUMENT_SPREAD, OWN_SPREAD = 0.7, 2.5, 0.7
RACED, COVERED, SPARSE = 1000, 200, 120  # documents
UNTIL, MOST_SHARE = 0.95, 0.6
QUADRATURE = np.polynomial.hermite_e.hermegauss(61)


def draw_grid(rng: np.random.Generator, num_documents: int, *, own_spread: float) -> tuple[NDArray, NDArray]:
    """(D, G) of right and wrong, and the (G,) true rates."""
    effects = rng.normal(-0.5, GUIDE_SPREAD, NUM_GUIDES)
    logits = effects + rng.normal(0, DOCUMENT_SPREAD, (num_documents, 1))
    logits = logits + rng.normal(0, 1, (num_documents, NUM_GUIDES)) * own_spread
    right = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    nodes, weights = QUADRATURE
    spread = np.hypot(DOCUMENT_SPREAD, own_spread)
    rates = (1 / (1 + np.exp(-(effects[:, None] + spread * nodes)))) @ weights / weights.sum()
    return right.astype(float), rates


def cover_bootstrap(seed: int) -> dict[str, Any]:
    """Whether the intervals of the Bayesian bootstrap hold the true rates."""
    right, rates = draw_grid(np.random.default_rng([seed, 1]), COVERED, own_spread=OWN_SPREAD)
    found = bootstrap(right, _names(), seed=seed, draws=1000)
    return {"held": [bool(one.low <= rate <= one.high) for one, rate in zip(found.standings, rates)]}


def cover_logistic(seed: int) -> dict[str, Any]:
    """The same by NUTS, where each document was answered under half of the guides."""
    from counterpoint.evaluate.logistic import logistic

    rng = np.random.default_rng([seed, 2])
    right, rates = draw_grid(rng, SPARSE, own_spread=0.0)
    # Each document has so many answers, so that all runs have the same shape and are compiled once.
    missing = rng.random(right.shape).argsort(1) < NUM_GUIDES // 2
    right[missing] = np.nan
    found = logistic(right, _names(), seed=seed, draws=300)
    held = [bool(one.low <= rate <= one.high) for one, rate in zip(found.standings, rates)]
    return {"held": held, "r_hat": found.r_hat, "ess": found.ess}


def run_race(seed: int) -> dict[str, Any]:
    """Whether the race finds the full grid's guide, and its share of the answers."""
    right, _ = draw_grid(np.random.default_rng([seed, 3]), RACED, own_spread=OWN_SPREAD)
    went = race(len(right), NUM_GUIDES, lambda docs, guides: right[np.ix_(docs, guides)], until=UNTIL, seed=seed)
    totals = right.sum(0)
    return {"found": bool(totals[went.best] == totals.max()), "share": went.num_answers / went.num_grid}


def _names() -> list[str]:
    return [f"guide {number}" for number in range(NUM_GUIDES)]


def _coverage(runs: list[dict[str, Any]]) -> float:
    """Share of all guides of all runs."""
    return float(np.mean([run["held"] for run in runs]))


SIMULATED: dict[str, tuple[Callable[[int], dict[str, Any]], Callable[[list[dict[str, Any]]], dict[str, Any]]]] = {
    "bootstrap": (cover_bootstrap, lambda runs: {"documents": COVERED, "coverage": _coverage(runs)}),
    "race": (
        run_race,
        lambda runs: {
            "documents": RACED,
            "until": UNTIL,
            "found": float(np.mean([run["found"] for run in runs])),
            "share of the answers, mean": float(np.mean([run["share"] for run in runs])),
            f"share at most {MOST_SHARE:g}": float(np.mean([run["share"] <= MOST_SHARE for run in runs])),
            "found with at most that share": float(
                np.mean([run["found"] and run["share"] <= MOST_SHARE for run in runs])
            ),
        },
    ),
    "logistic": (
        cover_logistic,
        lambda runs: {
            "documents": SPARSE,
            "coverage": _coverage(runs),
            "largest r-hat": max(run["r_hat"] for run in runs),
            "smallest effective sample size": min(run["ess"] for run in runs),
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--only", choices=list(SIMULATED), nargs="+", default=list(SIMULATED))
    parser.add_argument("--seconds", type=float, default=None, help="stop after this time with status 75")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "posterior")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file; printed if left out")
    given = parser.parse_args()
    store, end = Store(given.folder / "runs.sqlite"), time.monotonic() + (given.seconds or float("inf"))
    settings = [NUM_GUIDES, GUIDE_SPREAD, DOCUMENT_SPREAD, OWN_SPREAD, RACED, COVERED, SPARSE, UNTIL]
    left_out = given.only != list(SIMULATED)
    record: dict[str, Any] = {
        "made by": f"python scripts/simulate_posterior.py --runs {given.runs}"
        + (f" --only {' '.join(given.only)}" if left_out else ""),
        "guides": NUM_GUIDES,
    }
    for name in given.only:
        simulate, sum_up = SIMULATED[name]
        keys = [key_of("simulated", name, settings, seed) for seed in range(given.runs)]
        found = store.get(keys)
        for seed, key in enumerate(keys):
            if key not in found:
                if time.monotonic() > end:
                    print(f"{name}: {len(found)} of {given.runs} runs", file=sys.stderr)
                    sys.exit(75)
                found[key] = simulate(seed)
                store.put({key: found[key]})
        record[name] = {"runs": given.runs, **sum_up([found[key] for key in keys])}
    text = json.dumps(record, indent=1) + "\n"
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
