"""Requests together against the same requests one after the other, on one server in one run.

    python benchmarks/server_throughput.py

Every round asks first one after the other and then together (A B A B); medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from soak_server import WORDS, served

KINDS: dict[str, dict[str, Any]] = {
    "unguided": {},
    "guided, scale 3": {"negative_prompt": "A short note about nothing in particular.", "guidance_scale": 3.0},
}


def bodies(kind: str, count: int, num_tokens: int) -> list[dict[str, Any]]:
    greedy = {"max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    return [{"prompt": " ".join(WORDS[i % 7 : i % 7 + 12]) + f" {i}"} | greedy | KINDS[kind] for i in range(count)]


async def texts(client: httpx.AsyncClient, asked: list[dict[str, Any]], *, together: bool) -> tuple[float, list[str]]:
    """Seconds, and the answers."""

    async def one(body: dict[str, Any]) -> str:
        answer = await client.post("/v1/completions", json=body)
        answer.raise_for_status()
        return answer.json()["choices"][0]["text"]

    began = time.perf_counter()
    done = await asyncio.gather(*map(one, asked)) if together else [await one(body) for body in asked]
    return time.perf_counter() - began, list(done)


async def measure(base: str, *, counts: list[int], num_tokens: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    async with httpx.AsyncClient(base_url=base, timeout=600, limits=httpx.Limits(max_connections=256)) as client:
        await texts(client, bodies("guided, scale 3", 4, 8), together=True)
        for kind in KINDS:
            for count in counts:
                asked = bodies(kind, count, num_tokens)
                alone_s, together_s = [], []
                for _ in range(rounds):
                    seconds, want = await texts(client, asked, together=False)
                    alone_s.append(seconds)
                    seconds, got = await texts(client, asked, together=True)
                    together_s.append(seconds)
                    if got != want:
                        raise RuntimeError(f"{kind}, {count}: the answers together differ from those alone")
                a, b = statistics.median(alone_s), statistics.median(together_s)
                ratios = [x / y for x, y in zip(alone_s, together_s)]
                rows.append(
                    {
                        "kind": kind, "requests": count, "alone_tokens_per_s": round(count * num_tokens / a, 1),
                        "together_tokens_per_s": round(count * num_tokens / b, 1),
                        "times": round(statistics.median(ratios), 2),
                    }
                )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--counts", default="1,4,16,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    with served(["--model", args.model, "--dtype", args.dtype]) as (base, _):
        rows = asyncio.run(measure(base, counts=counts, num_tokens=args.tokens, rounds=args.rounds))
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"transformers {transformers.__version__}, {args.model} {args.dtype}, {args.tokens} tokens, {args.rounds} rounds")  # fmt: skip
    print("| requests | | one after the other, tokens/s | together, tokens/s | times |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['requests']} | {row['kind']} | {row['alone_tokens_per_s']} | {row['together_tokens_per_s']} | {row['times']} |"
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
