"""How `assign` does on labelled texts, for `scripts/plans.py`."""

from __future__ import annotations

import json
import lzma
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import counterpoint as cp
from counterpoint.assignment.best import Bounds

PROMPT, OPTIONS = "Review: {}\nThe review is", [" positive", " negative"]
GUIDES = {
    "unguided": None,
    "against no text, scale 1.5": cp.Guide(scale=1.5),
    "against no text, scale 2": cp.Guide(scale=2.0),
    "against no text, prob, scale 3": cp.Guide(scale=3.0, space="prob"),
}
NUM_RESAMPLES = 4000


def measure_accuracy(corpus: Path, store: Path, *, texts: int, guides: int, seed: int) -> dict[str, Any]:
    """Accuracy on sentences of film reviews, each option alone and with the labels' counts as capacities."""
    with lzma.open(corpus / "sentiment.jsonl.xz", "rt") as file:
        records = [json.loads(line) for line in file]
    found = [r for r in records if r["cond"]["kind"] == "movie review sentence" and len(r["text"]) <= 240]
    # Three positive ones to one negative, so that the shares are not those of a coin.
    source, of = random.Random(seed), {}
    for label, count in (("positive", texts * 3 // 4), ("negative", texts - texts * 3 // 4)):
        of[label] = source.sample([r["text"] for r in found if r["cond"]["sentiment"] == label], count)
    labelled = [(text, f" {label}") for label, listed in of.items() for text in listed]
    source.shuffle(labelled)
    truth = [label for _, label in labelled]
    capacity = {option: truth.count(option) for option in OPTIONS}
    model = cp.load("smollm2")
    rows = {}
    for name, guide in list(GUIDES.items())[:guides]:
        done = cp.assign(
            model,
            [PROMPT.format(text) for text, _ in labelled],
            OPTIONS,
            negative=None if guide is None else PROMPT.format(""),
            guide=guide,
            capacity=capacity,
            store=store,
            on_progress=lambda at, total: print(f"\r{at} of {total}", end="", file=sys.stderr),
        )
        alone = np.array([a == t for a, t in zip(done.alone, truth)], float)
        kept = np.array([a == t for a, t in zip(done.chosen, truth)], float)
        rows[name] = {
            "alone": _interval(alone, seed),
            "capacities": _interval(kept, seed),
            "gain": _interval(kept - alone, seed),
            "counts": done.counts,
            "alone_counts": {option: done.alone.count(option) for option in OPTIONS},
            "runner_up_loss": done.best.runner_up_loss,
            "prices": done.prices,
        }
    return {"texts": len(truth), "positive": capacity[" positive"], "model": model.name, "rows": rows}


def measure_linsat(*, seed: int) -> dict[str, Any]:
    """The exact solver beside LinSAT on random scores with capacities; without LinSATNet the exact solver alone."""
    try:
        import torch
        from LinSATNet import linsat_layer
    except ImportError:
        linsat_layer = None
    rows = []
    for num, width in ((60, 5), (400, 5)):
        source = np.random.default_rng(seed)
        scores = source.normal(size=(num, width)) * 2
        room = {str(j): num // width for j in range(width)}
        begun = time.perf_counter()
        bounds = Bounds(num, list(room), room, None)
        chosen = bounds.solve(scores)
        row = {"prompts": num, "options": width, "exact_s": time.perf_counter() - begun}
        row["exact"] = float(scores[np.arange(num), chosen].sum())
        if linsat_layer is not None:
            each = np.kron(np.eye(num), np.ones((1, width)))
            columns = np.kron(np.ones((1, num)), np.eye(width))
            as32 = {"dtype": torch.float32}
            for most in (100, 1000):
                begun = time.perf_counter()
                soft = linsat_layer(
                    torch.tensor(scores.ravel(), **as32), A=torch.tensor(columns, **as32),
                    b=torch.full((width,), num / width), E=torch.tensor(each, **as32), f=torch.ones(num),
                    tau=0.1, max_iter=most, dummy_val=0, no_warning=True,
                ).reshape(num, width).numpy()  # fmt: skip
                row[f"linsat_{most}_s"] = time.perf_counter() - begun
                over = np.concatenate([abs(soft.sum(1) - 1), np.maximum(soft.sum(0) - num / width, 0) / (num / width)])
                row[f"linsat_{most}_violation"] = float(over.max())
                rounded = np.bincount(soft.argmax(1), minlength=width)
                row[f"linsat_{most}_too_many"] = int(np.maximum(rounded - num // width, 0).sum())
        rows.append(row)
    return {"rows": rows}


def _interval(values: np.ndarray, seed: int) -> list[float]:
    """Mean and 95 % bootstrap interval."""
    source = np.random.default_rng(seed)
    means = values[source.integers(0, len(values), (NUM_RESAMPLES, len(values)))].mean(1)
    return [float(values.mean()), *map(float, np.quantile(means, [0.025, 0.975]))]
