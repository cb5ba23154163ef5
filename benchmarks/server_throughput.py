"""Requests together against the same requests one after the other, on one server in one run.

    python benchmarks/server_throughput.py
    python benchmarks/server_throughput.py --stream

Every round asks first one after the other and then together (A B A B); medians over the rounds. "Beside steps" is the
part of the time together in which the engine was in no step: requests that arrive, answers that leave.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from soak_server import WORDS, read_stream, served

KINDS: dict[str, dict[str, Any]] = {
    "unguided": {},
    "guided, scale 3": {"negative_prompt": "A short note about nothing in particular.", "guidance_scale": 3.0},
}


def bodies(kind: str, count: int, num_tokens: int) -> list[dict[str, Any]]:
    greedy = {"max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    return [{"prompt": " ".join(WORDS[i % 7 : i % 7 + 12]) + f" {i}"} | greedy | KINDS[kind] for i in range(count)]


async def texts(
    client: httpx.AsyncClient, asked: list[dict[str, Any]], *, together: bool, stream: bool
) -> tuple[float, list[str]]:
    """Seconds, and the answers."""

    async def one(body: dict[str, Any]) -> str:
        if stream:
            status, text, _ = await read_stream(client, body, None)
            if status != 200:
                raise RuntimeError(f"the server answers with {status}")
            return text
        answer = await client.post("/v1/completions", json=body)
        answer.raise_for_status()
        return answer.json()["choices"][0]["text"]

    began = time.perf_counter()
    done = await asyncio.gather(*map(one, asked)) if together else [await one(body) for body in asked]
    return time.perf_counter() - began, list(done)


async def stepped(client: httpx.AsyncClient) -> tuple[float, int]:
    """Seconds of the engine's steps so far, and their number."""
    text = (await client.get("/metrics")).text
    total, count = (re.search(rf"counterpoint_step_seconds_{name} (\S+)", text)[1] for name in ("sum", "count"))
    return float(total), int(float(count))


async def measure(
    base: str, *, counts: list[int], num_tokens: int, rounds: int, stream: bool, is_exact: bool
) -> list[dict[str, Any]]:
    rows = []
    async with httpx.AsyncClient(base_url=base, timeout=600, limits=httpx.Limits(max_connections=256)) as client:
        await texts(client, bodies("guided, scale 3", 4, 8), together=True, stream=stream)
        for kind in KINDS:
            for count in counts:
                asked = bodies(kind, count, num_tokens)
                alone_s, together_s, steps_s, num_steps, differing = [], [], 0.0, 0, 0
                for _ in range(rounds):
                    seconds, want = await texts(client, asked, together=False, stream=stream)
                    alone_s.append(seconds)
                    before = await stepped(client)
                    seconds, got = await texts(client, asked, together=True, stream=stream)
                    together_s.append(seconds)
                    after = await stepped(client)
                    steps_s, num_steps = steps_s + after[0] - before[0], num_steps + after[1] - before[1]
                    differing += sum(a != b for a, b in zip(got, want, strict=True))
                    if differing and is_exact:
                        raise RuntimeError(f"{kind}, {count}: the answers together differ from those alone")
                a, b = statistics.median(alone_s), statistics.median(together_s)
                ratios = [x / y for x, y in zip(alone_s, together_s)]
                rows.append(
                    {
                        "kind": kind, "requests": count, "alone_tokens_per_s": round(count * num_tokens / a, 1),
                        "together_tokens_per_s": round(count * num_tokens / b, 1),
                        "times": round(statistics.median(ratios), 2),
                        "differing": differing,
                        "step_ms": round(1e3 * steps_s / num_steps, 2),
                        "beside_steps_percent": round(100 * (1 - steps_s / sum(together_s)), 1),
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
    parser.add_argument("--stream", action="store_true", help="read every answer as a stream")
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    with served(["--model", args.model, "--dtype", args.dtype]) as (base, _):
        rows = asyncio.run(
            measure(
                base,
                counts=counts,
                num_tokens=args.tokens,
                rounds=args.rounds,
                stream=args.stream,
                is_exact=args.dtype == "float32",
            )
        )
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"transformers {transformers.__version__}, {args.model} {args.dtype}, {args.tokens} tokens, {args.rounds} rounds")  # fmt: skip
    print(
        "| requests | | one after the other, tokens/s | together, tokens/s | times | a step together, ms | beside steps |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['requests']} | {row['kind']} | {row['alone_tokens_per_s']:,.0f} | {row['together_tokens_per_s']:,.0f} "
            f"| {row['times']:.1f} | {row['step_ms']:.1f} | {row['beside_steps_percent']:.0f} % |"
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
