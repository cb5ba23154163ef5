"""Makes docs/evidence.md, docs/evidence.json and docs/frontier.svg. The same command again continues after a kill.

    python scripts/evidence.py --corpus CORPUS --lambada lambada_test.jsonl

CORPUS is the folder of `*.jsonl.xz` that the bundled model was trained on; what configs/bundled.toml holds out is used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from evidence_data import CONDITIONS, held_out_once
from evidence_page import draw, write_page

import counterpoint as cp
from counterpoint.evaluate.frontier import SCALES, all_arms, choose_default, run_frontier, same_fluency
from counterpoint.evaluate.grid import run_grid, versions
from counterpoint.evaluate.judges import NgramModel, train_judge
from counterpoint.evaluate.table import plain, quiet
from counterpoint.evaluate.tasks import lambada
from counterpoint.models.fingerprint import fingerprint
from counterpoint.store import Store

ROOT = Path(__file__).parent.parent
LAMBADA_SCALES = (1.0, 1.25, 1.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--lambada", required=True, type=Path)
    parser.add_argument("--model", default="bundled", help="the bundled model, or another trained by its config")
    parser.add_argument(
        "--lambada-sample", type=int, default=None, help="passages, drawn with the seed; all if left out"
    )
    parser.add_argument("--samples", type=int, default=40, help="texts for each condition and arm")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--ngram-chars", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "evidence")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    torch.set_num_threads(1)  # one thread sums in one order, so that the same command gives the same numbers
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    model = cp.load(given.model, dtype="float32")
    weights = fingerprint(model.hf)
    store = Store(given.folder / "samples.sqlite")
    held = held_out_once(store, ROOT / "configs" / "bundled.toml", given.corpus, given.seed, given.ngram_chars)
    say(f"held out: {len(held.reviews)} pieces of reviews, {len(held.books)} of books")
    judges = {
        "sentiment": train_judge("sentiment", held.reviews, seed=given.seed),
        "genre": train_judge("genre", held.books, seed=given.seed),
    }
    say(", ".join(f"{judge.name} judge {judge.accuracy:.3f}" for judge in judges.values()))
    fluency = NgramModel(
        lambda text: model.encode(text, special_tokens=False), vocab_size=model.vocab_size, texts=held.texts
    )
    say(f"n-gram model of {fluency.num_tokens} tokens")
    measured = run_frontier(
        model, CONDITIONS, judges, fluency, arms=all_arms(SCALES), samples=given.samples, max_tokens=given.max_tokens,
        seed=given.seed, store=store, weights=weights, say=say,
    )  # fmt: skip
    choice = choose_default(measured, seed=given.seed)
    with quiet():
        task = lambada(given.lambada, sample=given.lambada_sample, seed=given.seed, folder=given.folder)
        guides = [cp.Guide(scale=scale) for scale in LAMBADA_SCALES]
        grid = run_grid([task], guides, folder=given.folder, seed=given.seed, pretrained=given.model, device="cpu",
                        dtype="float32", batch_size=32)  # fmt: skip
    say("LAMBADA done")
    record = {
        "made by": f"python scripts/evidence.py --corpus CORPUS --lambada FILE --samples {given.samples} "
        f"--max-tokens {given.max_tokens} --ngram-chars {given.ngram_chars} --seed {given.seed}"
        + (f" --lambada-sample {given.lambada_sample}" if given.lambada_sample else ""),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "versions": versions(),
        "weights": weights,
        "parameters": sum(p.numel() for p in model.hf.parameters()),
        "seed": given.seed,
        "samples": given.samples,
        "max_tokens": given.max_tokens,
        "judges": {j.name: {"accuracy": j.accuracy, "labels": j.labels} for j in judges.values()},
        "ngram": {"order": fluency.order, "tokens": fluency.num_tokens},
        "arms": [{"name": m.arm.name, "family": m.arm.family, "guide": m.arm.guide.to_dict(),
                  **{k: v for k, v in dataclasses.asdict(m).items() if k not in ("arm", "won")}} for m in measured],
        "choice": {"chosen": None if choice.chosen is None else choice.chosen.arm.name,
                   "within": choice.within, "against": choice.against},
        "same_fluency": same_fluency(measured, seed=given.seed),
        "lambada": grid["rows"],
    }  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "evidence.json").write_text(json.dumps(plain(json.loads(json.dumps(record))), indent=1) + "\n")
    draw(record, given.out / "frontier.svg")
    (given.out / "evidence.md").write_text(write_page(record))
    say(f"wrote {given.out / 'evidence.md'}; {store.num_computed} sets of samples written, {store.num_reused} reused")


if __name__ == "__main__":
    main()
