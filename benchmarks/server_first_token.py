"""How long a short request waits for its first token while a prompt of 4,000 tokens is being read.

    python benchmarks/server_first_token.py

The bundled model with its context widened to 8,192 (positions are rotary, so the weights fit; what it writes there means
nothing, and nothing here depends on it). Compared: reading in chunks, and reading whole.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from counterpoint.models.loading import BUNDLED

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import itertools

from soak_server import served

SHORT = {"prompt": "The old house", "max_tokens": 4, "temperature": 0, "ignore_eos": True, "stream": True}


@contextlib.contextmanager
def wide_model(context_len: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(BUNDLED, folder, dirs_exist_ok=True)
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": context_len}))
        yield folder


async def times(client: httpx.AsyncClient, body: dict[str, Any]) -> list[float]:
    """When each token came, in seconds from the request."""
    began, seen = time.perf_counter(), []
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                seen.append(time.perf_counter() - began)
    return seen


async def measure(base: str, *, prompt_tokens: int, rounds: int) -> dict[str, float]:
    async with httpx.AsyncClient(base_url=base, timeout=300) as client:
        await times(client, SHORT)
        idle, short, long, gaps = [], [], [], []
        for round_number in range(rounds):
            idle.append((await times(client, SHORT))[0])
            # Another prompt each time, and one token of a stream before it, whose gaps are watched.
            writing = asyncio.create_task(times(client, SHORT | {"max_tokens": 200}))
            await asyncio.sleep(0.1)
            prompt = [3 + (7 * i + round_number) % 200 for i in range(prompt_tokens)]
            began = time.perf_counter()
            reading = asyncio.create_task(times(client, SHORT | {"prompt": prompt}))
            await asyncio.sleep(0.05)
            short.append((await times(client, SHORT))[0])
            long.append((await reading)[0])
            until = time.perf_counter() - began
            seen = await writing
            gaps.append(max(b - a for a, b in itertools.pairwise(seen) if b < until + 0.1))
        return {
            "short alone": statistics.median(idle),
            "short, beside the long prompt": statistics.median(short),
            "short, beside the long prompt, worst": max(short),
            "longest gap in another's stream": statistics.median(gaps),
            "long prompt": statistics.median(long),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    ways = {"256 a step (default)": "256", "1,024 a step": "1024", "whole": "100000"}
    results = {}
    with wide_model(8192) as folder:
        for name, tokens in ways.items():
            with served(["--model", folder, "--dtype", "float32", "--prefill-tokens", tokens]) as (base, _):
                results[name] = asyncio.run(measure(base, prompt_tokens=args.prompt_tokens, rounds=args.rounds))
    columns = list(next(iter(results.values())))
    print("| prompt read | " + " | ".join(f"{c}, ms" for c in columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name, values in results.items():
        print(f"| {name} | " + " | ".join(f"{1000 * values[c]:.0f}" for c in columns) + " |")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
