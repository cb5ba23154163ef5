"""Many clients at one server: guided and unguided, long and short, some that go away; every answer checked.

    python scripts/soak_server.py --clients 64 --seconds 600

A pool of different requests is first answered one at a time, on an idle server. Then all clients draw from the pool at
once. Each finished greedy answer has to be the one that the same request got alone (a difference where two tokens lie
within 1e-4 in log-probability is counted as a tie); seeded answers are compared too. Exits with 1 on a difference, an
answer of 5xx, or memory that grows after the first minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

TIE = 1e-4
WORDS = [
    "the",
    "old",
    "house",
    "stood",
    "at",
    "end",
    "of",
    "a",
    "lane",
    "and",
    "nobody",
    "had",
    "lived",
    "there",
    "since",
    "winter",
    "when",
    "river",
    "rose",
    "over",
    "its",
    "banks",
]
GUIDES: list[dict[str, Any]] = [
    {},
    {},
    {"guidance_scale": 3.0},
    {"guidance_scale": 1.5, "guidance": {"space": "prob"}},
    {"guidance_scale": 4.0, "guidance": {"plausibility": 0.1}},
    {"guidance": {"branches": [{"prompt": "A cold day", "weight": -0.8}, {"prompt": "A feast", "weight": 0.4}]}},
    {"guidance_scale": 2.0, "guidance": {"start": 2, "stop": 12}},
]


@dataclass
class Tally:
    """What happened."""

    statuses: Counter = field(default_factory=Counter)
    outcomes: Counter = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    num_tokens: int = 0
    first_token_s: list[float] = field(default_factory=list)
    rss_mib: list[tuple[float, float]] = field(default_factory=list)


def make_pool(seed: int, size: int, longest: int) -> list[dict[str, Any]]:
    """Different requests; four in five greedy, the others seeded."""
    rng = random.Random(seed)
    pool = []
    for number in range(size):
        num_words = rng.choice([3, 12, longest // 8, longest // 2, longest]) if number % 4 == 0 else rng.randint(2, 30)
        body: dict[str, Any] = {
            "prompt": " ".join(rng.choices(WORDS, k=num_words)),
            "max_tokens": rng.choice([4, 16, 16, 40, 96]),
            "temperature": 0,
            "ignore_eos": True,
        }
        guide = rng.choice(GUIDES)
        if guide and "branches" not in guide.get("guidance", {}):
            body["negative_prompt"] = " ".join(rng.choices(WORDS, k=rng.randint(2, 30)))
        body |= guide
        if number % 5 == 4:
            body |= {"temperature": 0.8, "seed": number}
        body |= MORE.get(number % 15, {})
        if "structured_outputs" in body:
            del body["ignore_eos"]  # a form has its own end
        pool.append(body)
    return pool


#: further fields, by the number of the request
MORE: dict[int, dict[str, Any]] = {
    1: {"logprobs": 3},
    3: {"min_tokens": 4, "return_token_ids": True},
    6: {"stop": [" ".join(WORDS) * 30 + str(number) for number in range(16)]},
    7: {"echo": True, "logprobs": 1},
    8: {"structured_outputs": {"regex": "[a-z ,.]{5,60}"}},
    11: {"structured_outputs": {"json": {"type": "object", "properties": {"at": {"type": "string", "maxLength": 12}}, "required": ["at"], "additionalProperties": False}}},
    13: {"best_of": 1, "suffix": None, "user": "soak", "logit_bias": {"20": -100}},
}  # fmt: skip


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = await client.post("/v1/completions", json=body)
    return answer.status_code, answer.json()


async def read_stream(
    client: httpx.AsyncClient, body: dict[str, Any], most_events: int | None
) -> tuple[int, str | None, float]:
    """Status, the text where it came to its end, and seconds to the first event; leaves after `most_events`."""
    began, first_s, text, events = time.monotonic(), 0.0, "", 0
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        if answer.status_code != 200:
            return answer.status_code, None, 0.0
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            first_s = first_s or time.monotonic() - began
            if line == "data: [DONE]":
                return 200, text, first_s
            text += json.loads(line[6:])["choices"][0]["text"]
            events += 1
            if events == most_events:
                return 200, None, first_s
    raise RuntimeError("a stream broke off")


async def client_loop(
    base: str, pool: list[dict], alone: list[str], until: float, rng: random.Random, tally: Tally
) -> None:
    is_first = True
    async with httpx.AsyncClient(base_url=base, timeout=300) as client:
        while is_first or time.monotonic() < until:  # each asks at least once, however slow the machine is
            is_first = False
            number = rng.randrange(len(pool))
            body, way = pool[number], rng.random()
            if way < 0.1:  # leaves while it waits for a whole answer
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ask(client, body), rng.uniform(0.01, 0.5))
                tally.outcomes["left waiting"] += 1
                continue
            if way < 0.2:
                status, text, first_s = await read_stream(client, body, rng.randint(1, 8))
            elif way < 0.6:
                status, text, first_s = await read_stream(client, body, None)
            else:
                status, answer = await ask(client, body)
                text, first_s = answer["choices"][0]["text"] if status == 200 else None, 0.0
            tally.statuses[status] += 1
            if first_s:
                tally.first_token_s.append(first_s)
            if status == 429:
                await asyncio.sleep(rng.uniform(0.5, 1.5))
            elif text is None:
                tally.outcomes["left streaming" if status == 200 else "refused"] += 1
            else:
                tally.num_tokens += body["max_tokens"]
                kind = "greedy" if body["temperature"] == 0 else "seeded"
                if text == alone[number]:
                    tally.outcomes[f"{kind}, equal"] += 1
                else:
                    tally.wrong.append({"number": number, "kind": kind, "text": text})


async def is_tie(client: httpx.AsyncClient, body: dict[str, Any], text: str) -> bool:
    """Whether the first token that differs from the answer alone was within rounding of the one that won."""
    status, answer = await ask(client, body | {"logprobs": 2})
    if status != 200:
        return False
    logprobs, written = answer["choices"][0]["logprobs"], ""
    for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"]):
        written += token
        if not text.startswith(written):
            best = sorted(top.values(), reverse=True)
            return len(best) > 1 and best[0] - best[1] < TIE
    return False


async def watch_memory(pid: int | None, tally: Tally) -> None:
    began = time.monotonic()
    while pid is not None:
        with contextlib.suppress(FileNotFoundError):
            status = Path(f"/proc/{pid}/status").read_text()
            tally.rss_mib.append((time.monotonic() - began, int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024))
        await asyncio.sleep(1)


async def what_is_left(client: httpx.AsyncClient) -> dict[str, int]:
    """What the engine holds once it had a minute for clients that have left."""
    began = time.monotonic()
    while True:
        told = (await client.get("/health")).json()
        left = {name: told[name] for name in ("running", "waiting", "rows")}
        if not any(left.values()) or time.monotonic() - began > 60:
            return left
        await asyncio.sleep(0.1)


async def soak(
    base: str, *, clients: int, seconds: float, seed: int, pool_size: int, longest: int, pid: int | None
) -> dict[str, Any]:
    """Run it; the report as plain values."""
    async with httpx.AsyncClient(base_url=base, timeout=300) as client:
        pool = make_pool(seed, pool_size, longest)
        await ask(client, pool[0])
        began, alone = time.monotonic(), []
        for body in pool:
            status, answer = await ask(client, body)
            if status != 200:
                raise RuntimeError(f"alone: {status} {answer}")
            alone.append(answer["choices"][0]["text"])
        alone_s = time.monotonic() - began
        alone_tokens = sum(body["max_tokens"] for body in pool)

        tally = Tally()
        watching = asyncio.create_task(watch_memory(pid, tally))
        began = time.monotonic()
        loops = [
            client_loop(base, pool, alone, began + seconds, random.Random(f"{seed}-{i}"), tally) for i in range(clients)
        ]
        await asyncio.gather(*loops)
        took_s = time.monotonic() - began
        watching.cancel()
        left = await what_is_left(client)
        wrong = []
        for one in tally.wrong:
            tie = one["kind"] == "greedy" and await is_tie(client, pool[one["number"]], one["text"])
            tally.outcomes["greedy, tie" if tie else f"{one['kind']}, DIFFERENT"] += 1
            if not tie:
                wrong.append(one | {"alone": alone[one["number"]], "body": pool[one["number"]]})
    settled = [mib for at, mib in tally.rss_mib if at >= min(60, seconds / 2)]
    firsts = sorted(tally.first_token_s)
    return {
        "clients": clients,
        "seconds": round(took_s, 1),
        "seed": seed,
        "statuses": dict(tally.statuses),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "tokens_per_s_alone": round(alone_tokens / alone_s, 1),
        "tokens_per_s_together": round(tally.num_tokens / took_s, 1),
        "first_token_s": {f"p{q}": round(firsts[len(firsts) * q // 100], 3) for q in (50, 95, 99)} if firsts else {},
        "rss_mib": {"after_settling": round(settled[0]), "most": round(max(settled)), "end": round(settled[-1])}
        if settled
        else {},
        "left_in_engine": left,
        "different": wrong[:5],
        "num_different_greedy": sum(one["kind"] == "greedy" for one in wrong),
    }


def verdict(report: dict[str, Any]) -> list[str]:
    """What is wrong with a run; empty where nothing is."""
    faults = [f"{n} answers of {status}" for status, n in report["statuses"].items() if int(status) >= 500]
    if report["num_different_greedy"]:
        faults.append(f"{report['num_different_greedy']} greedy answers differ")
    if any(report["left_in_engine"].values()):
        faults.append(f"left in the engine: {report['left_in_engine']}")
    rss = report["rss_mib"]
    if rss and rss["end"] > 1.05 * rss["after_settling"] + 16:
        faults.append(f"memory grew from {rss['after_settling']} to {rss['end']} MiB")
    return faults


@contextlib.contextmanager
def served(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """A server process of its own on a free port: its address and its process number."""
    command = [sys.executable, "-m", "counterpoint", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            raise RuntimeError(f"the server did not start: {line!r}")
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server; otherwise one is started")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=60, help="different requests")
    parser.add_argument("--longest", type=int, default=400, help="words of the longest prompt")
    args = parser.parse_args()
    options = {
        "clients": args.clients, "seconds": args.seconds, "seed": args.seed, "pool_size": args.pool, "longest": args.longest,
    }  # fmt: skip
    if args.url:
        report = asyncio.run(soak(args.url, pid=None, **options))
    else:
        with served(["--model", args.model, "--dtype", "float32"]) as (base, pid):
            report = asyncio.run(soak(base, pid=pid, **options))
    print(json.dumps(report, indent=1, ensure_ascii=False))
    faults = verdict(report)
    print("\n".join(faults) or "no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
