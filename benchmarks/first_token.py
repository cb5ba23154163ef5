"""From typing a command to the first character of its text on a terminal, the process's start and the model's loading included.

    python benchmarks/first_token.py
    python benchmarks/first_token.py --models bundled --against ../older/src

Every round runs each model with each sources once, by turns; medians over the rounds. `--against` takes the `src` of another
checkout, which this environment must suit.
"""

from __future__ import annotations

import argparse
import os
import platform
import pty
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parents[1] / "src"
COMMAND = [
    "generate",
    "The old house",
    "--negative",
    "In the end",
    "--scale",
    "1.5",
    "--max-tokens",
    "24",
    "--seed",
    "1",
]


def first_character_s(model: str, sources: Path) -> float:
    """Seconds. Raises `RuntimeError` where the command writes nothing."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(sources), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "counterpoint", *COMMAND, "--model", model],
        stdin=subprocess.DEVNULL, stdout=follower, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    os.close(follower)
    try:
        first = os.read(leader, 1)
    except OSError:  # Linux's way to say that the other end is closed
        first = b""
    took = time.perf_counter() - began
    try:
        while os.read(leader, 4096):
            pass
    except OSError:
        pass
    os.close(leader)
    said = process.communicate()[1].decode()
    if not first or process.returncode:
        raise RuntimeError(f"{model} with {sources}: {said.strip()[-300:]}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bundled,smollm2")
    parser.add_argument("--against", type=Path, help="the src of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sources = [HERE, *([args.against.resolve()] if args.against else [])]
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"transformers {transformers.__version__}, {args.rounds} rounds")  # fmt: skip
    for model in args.models.split(","):
        for each in sources:
            first_character_s(model, each)  # files are read from the disk once, kernels compiled
        rounds = [[first_character_s(model, each) for each in sources] for _ in range(args.rounds)]
        columns = [statistics.median(column) for column in zip(*rounds, strict=True)]
        ratio = statistics.median(row[0] / row[-1] for row in rounds)
        more = f"; the other {columns[1]:.2f} s, ratio {ratio:.2f}" if args.against else ""
        print(f"{model}: first character after {columns[0]:.2f} s{more}", flush=True)


if __name__ == "__main__":
    main()
