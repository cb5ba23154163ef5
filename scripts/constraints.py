"""Makes docs/constraints.md and .json: what constraints on the output do, and what they cost.

    python scripts/constraints.py --corpus CORPUS --suite SUITE

CORPUS is the folder of `*.jsonl.xz` that the bundled model was trained on; SUITE is a JSON Schema Test Suite, such as the
folder `json` in the source package of `jsonschema`. Parts can be made one by one with --parts; the others are kept as they
are in the JSON file. Needs the extras constraints, eval and test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from constraints_cost import measure_cost
from constraints_order import measure_order
from constraints_page import write_page
from constraints_schemas import measure_samples
from constraints_suite import measure_suite

from counterpoint.bench.machine import describe_machine

PARTS = ("order", "samples", "suite", "cost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--texts", type=int, default=80, help="of each guide and order")
    parser.add_argument("--samples", type=int, default=11, help="of each schema on each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs")
    given = parser.parse_args()
    torch.set_num_threads(1)  # one thread sums in one order, so that the same command gives the same numbers
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    path = given.out / "constraints.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made = {
        "order": lambda: measure_order(given.corpus, texts=given.texts, seed=given.seed, say=say),
        "samples": lambda: measure_samples(samples=given.samples, seed=given.seed, say=say),
        "suite": lambda: measure_suite(given.suite, say=say),
        "cost": lambda: measure_cost(seed=given.seed, say=say),
    }
    for part in filter(None, given.parts.split(",")):
        if part not in made:
            parser.error(f"--parts has {part!r}; use some of {', '.join(PARTS)}")
        record[part] = {**made[part](), "machine": describe_machine()}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    write_page(record, given.out / "constraints.md")


if __name__ == "__main__":
    main()
