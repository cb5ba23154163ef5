"""Makes docs/contexts-measured.md and .json: what contexts are worth on the bundled model.

    python scripts/contexts.py --corpus CORPUS

CORPUS is the folder of `*.jsonl.xz` that the bundled model was trained on. Needs the extras eval and adapters. Parts can
be made one by one with --parts; the others are kept as they are in the JSON file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from contexts_adapter import measure_adapter
from contexts_hold import measure_hold
from contexts_page import write_page
from contexts_qa import measure_qa, read_questions
from evidence_data import read_held_out

import counterpoint as cp
from counterpoint.evaluate.grid import versions
from counterpoint.evaluate.judges import train_judge
from counterpoint.models.fingerprint import fingerprint

ROOT = Path(__file__).parent.parent
PARTS = ("qa", "hold", "adapter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--questions", type=int, default=300, help="drawn with the seed")
    parser.add_argument("--hold-texts", type=int, default=8, help="for each genre and arm")
    parser.add_argument("--author", default="Arthur Conan Doyle")
    parser.add_argument("--steps", type=int, default=150, help="training steps of the adapter")
    parser.add_argument("--author-texts", type=int, default=100, help="for each arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    torch.set_num_threads(1)  # one thread sums in one order, so that the same command gives the same numbers
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    model = cp.load("bundled", dtype="float32")
    path = given.out / "contexts-measured.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    chosen = given.parts.split(",")
    for part in chosen:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; use {', '.join(PARTS)}")
    # In this order: the last part adds an adapter to the model.
    sizes = ("questions", "hold_texts", "author", "steps", "author_texts", "seed")
    written = " ".join(f"--{name.replace('_', '-')} {str(getattr(given, name))!r}" for name in sizes).replace("'", '"')
    for part in (part for part in PARTS if part in chosen):
        about = {
            "command": f"python scripts/contexts.py --corpus CORPUS {written}",
            "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
            "versions": versions(),
            "weights": fingerprint(model.hf),
            "seed": given.seed,
        }
        if part == "qa":
            questions = read_questions(given.corpus)
            random.Random(given.seed).shuffle(questions)
            found = measure_qa(model, questions[: given.questions], seed=given.seed, say=say)
        elif part == "hold":
            held = read_held_out(ROOT / "configs" / "bundled.toml", given.corpus, seed=given.seed, most_chars=1)
            judge = train_judge("genre", held.books, seed=given.seed)
            say(f"genre judge {judge.accuracy:.3f}")
            found = measure_hold(model, judge, texts=given.hold_texts, seed=given.seed, say=say)
        else:
            found = measure_adapter(
                model, given.corpus, author=given.author, steps=given.steps, texts=given.author_texts,
                seed=given.seed, say=say,
            )  # fmt: skip
        record[part] = json.loads(json.dumps(about | found, default=dataclasses.asdict))
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_page(record, given.out / "contexts-measured.md")
        say(f"{part} done")


if __name__ == "__main__":
    main()
