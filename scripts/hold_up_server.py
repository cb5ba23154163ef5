"""What one client can do to hold up the others: the longest gap in somebody else's stream while it is tried.

    python scripts/hold_up_server.py --rounds 3

By turns with nothing tried, since a busy machine has gaps of its own: both are told. The bundled model, a server in a process of
its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import httpx
from soak_server import served

MOST_MS = 150.0
ASKED = {"prompt": "The old house", "temperature": 0, "ignore_eos": True}
WATCHED = ASKED | {"max_tokens": 400, "stream": True}


async def gaps_ms(client: httpx.AsyncClient) -> list[float]:
    """Milliseconds between the tokens of one stream, after the first."""
    seen = []
    async with client.stream("POST", "/v1/completions", json=WATCHED) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                seen.append(time.perf_counter())
    return [1e3 * (b - a) for a, b in itertools.pairwise(seen)]


async def nothing(client: httpx.AsyncClient) -> None:
    await asyncio.sleep(0.1)


async def nested_body(client: httpx.AsyncClient) -> None:
    """1 MB of lists in lists, and of objects in objects, where fields are read."""
    half = 500_000
    for field in ('"prompt"', '"guidance"', '"logit_bias"'):
        body = f"{{{field}: {'[' * half}{']' * half}}}"
        await client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    deep = '{"a":' * 150_000 + "1" + "}" * 150_000
    await client.post("/v1/completions", content=deep, headers={"content-type": "application/json"})


async def wide_body(client: httpx.AsyncClient) -> None:
    """1 MB of small objects, a field with many keys, and a prompt of a million characters."""
    await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}] * 25_000})
    await client.post(
        "/v1/completions", json=ASKED | {"logit_bias": {str(k): 0.5 for k in range(60_000)}, "max_tokens": 1}
    )
    await client.post("/v1/completions", json=ASKED | {"prompt": "word " * 200_000, "max_tokens": 1})


async def long_stops(client: httpx.AsyncClient) -> None:
    """16 stop texts as long as may be, each a beginning of what could come."""
    stops = [(chr(97 + k) + " and the ") * 400 for k in range(16)]
    await client.post(
        "/v1/completions", json=ASKED | {"max_tokens": 150, "stop": [stop[:4096] for stop in stops]}, timeout=120
    )


async def slow_reader(client: httpx.AsyncClient) -> None:
    """Asks for streams and reads none of them, then leaves."""
    body = json.dumps(ASKED | {"max_tokens": 400, "stream": True, "logprobs": 20}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writers = []
    for _ in range(4):
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=64)
        writer.write(head.encode() + body)
        await writer.drain()
        writers.append(writer)
    await asyncio.sleep(2)
    for writer in writers:
        writer.close()


async def exploding_schema(client: httpx.AsyncClient) -> None:
    """A schema and an expression that grow when they are compiled."""
    schema: dict = {"type": "string"}
    for _ in range(6):
        schema = {"anyOf": [schema] * 5}
    for fields in ({"structured_outputs": {"json": schema}}, {"guided_regex": "(((a|b){1,100}c){1,100}d){1,100}"}):
        await client.post("/v1/completions", json=ASKED | {"max_tokens": 4} | fields, timeout=120)


async def costly_samples(client: httpx.AsyncClient) -> None:
    """64 samples whose choices take a time of their own, each kind by turns."""
    many = ASKED | {"n": 64, "max_tokens": 40, "temperature": 1.0}
    for fields in ({"frequency_penalty": 0.5, "presence_penalty": 0.5}, {"logprobs": 20}):
        await client.post("/v1/completions", json=many | fields, timeout=120)


async def long_echo(client: httpx.AsyncClient) -> None:
    """The scores of eight prompts of nearly the model's context."""
    texts = ["the sea and the sun " * 190] * 8
    await client.post(
        "/v1/completions", json=ASKED | {"prompt": texts, "max_tokens": 1, "echo": True, "logprobs": 5}, timeout=120
    )


async def beside(client: httpx.AsyncClient, trial: Callable[[httpx.AsyncClient], Awaitable[None]]) -> list[float]:
    """The gaps of a stream during which something is tried again and again."""
    is_over = False

    async def again() -> None:
        while not is_over:
            with contextlib.suppress(httpx.HTTPError):
                await trial(client)

    trying = asyncio.create_task(again())
    await asyncio.sleep(0.05)
    gaps = await gaps_ms(client)
    is_over = True
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    return gaps


async def run(base: str, rounds: int) -> list[str]:
    wrong = []
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        await gaps_ms(client)
        for trial in (nested_body, wide_body, long_stops, slow_reader, exploding_schema, costly_samples, long_echo):
            found: dict[str, list[float]] = {"nothing": [], "tried": []}
            typical = []
            for _ in range(rounds):
                found["nothing"].append(max(await beside(client, nothing)))
                gaps = await beside(client, trial)
                found["tried"].append(max(gaps))
                typical.append(statistics.median(gaps))
            quiet, longest = statistics.median(found["nothing"]), statistics.median(found["tried"])
            print(
                f"{trial.__name__}: longest gap {longest:.0f} ms (worst {max(found['tried']):.0f}), typical "
                f"{statistics.median(typical):.1f} ms; with nothing tried {quiet:.0f} ms", flush=True,
            )  # fmt: skip
            if longest > MOST_MS and longest > 2 * quiet:
                wrong.append(f"{trial.__name__} holds others up")
        answer = await client.post("/v1/completions", json=ASKED | {"max_tokens": 2})
        if answer.status_code != 200:
            wrong.append("the next request is not served")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with served(["--model", "bundled"]) as (base, _):
        wrong = asyncio.run(run(base, args.rounds))
    for line in wrong:
        print(f"FAILED: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
