"""Does a server repeat itself? The same requests twice on an idle server, and alone against among others.

    python scripts/repeats.py --model bundled --dtype bfloat16 --requests 200
    python scripts/repeats.py --model bundled --dtype bfloat16 --requests 50 --repeatable
    python scripts/repeats.py --model smollm2 --dtype bfloat16 --requests 34 --lengths 16 --cost 5

Half of the requests are greedy and half seeded, most of them guided, with beginnings that they share. Each is sent twice, one
at a time; with --repeatable each is also sent among 16 others. Token ids are compared. Without --url a server is started.
Exits with 1 on a difference. Tells the tokens a second of both ways.

--cost compares two servers, one without and one with --repeatable: the same requests on the one, then on the other, so many
times; the ratio of their times, alone and together, is the median of the pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from soak_server import WORDS, served

TOGETHER = 16


def make_requests(count: int, seed: int, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Different requests; every second one is seeded. Outputs are of these lengths, in tokens."""
    rng = random.Random(seed)
    shared = [" ".join(rng.choices(WORDS, k=150)) for _ in range(3)]
    made = []
    for number in range(count):
        begin = rng.choice([*shared, ""])[: rng.choice([0, 100, 400, 800])]
        body = {
            "prompt": f"{begin} {' '.join(rng.choices(WORDS, k=rng.randint(1, 40)))}",
            "max_tokens": rng.choice(lengths),
            "ignore_eos": True,
            "return_token_ids": True,
        }
        body |= {"temperature": 0} if number % 2 == 0 else {"temperature": 0.8, "seed": number}
        if number % 3:
            body |= {"negative_prompt": " ".join(rng.choices(WORDS, k=rng.randint(1, 60))), "guidance_scale": 1.5}
        made.append(body)
    return made


def ids_of(client: httpx.Client, body: dict[str, Any]) -> list[int]:
    answer = client.post("/v1/completions", json=body)
    answer.raise_for_status()
    return answer.json()["choices"][0]["token_ids"]


def compare(base: str, bodies: list[dict[str, Any]], *, together: bool) -> dict[str, Any]:
    """Counts of the answers that differ, by kind, and tokens a second."""
    num_tokens = sum(body["max_tokens"] for body in bodies)
    with httpx.Client(base_url=base, timeout=600) as client:
        ids_of(client, bodies[0] | {"max_tokens": 1})
        began = time.monotonic()
        first = [ids_of(client, body) for body in bodies]
        alone_s = time.monotonic() - began
        again = [ids_of(client, body) for body in bodies]
        report: dict[str, Any] = {
            "requests": len(bodies),
            "greedy_that_differ": sum(a != b for a, b in list(zip(first, again))[::2]),
            "seeded_that_differ": sum(a != b for a, b in list(zip(first, again))[1::2]),
            "tokens_per_s_alone": round(num_tokens / alone_s, 1),
        }
        with ThreadPoolExecutor(TOGETHER + 1) as pool:
            began = time.monotonic()
            beside = list(pool.map(lambda body: ids_of(client, body), bodies))
            report["tokens_per_s_together"] = round(num_tokens / (time.monotonic() - began), 1)
        report["differ_among_others"] = sum(a != b for a, b in zip(first, beside))
    report["fault"] = bool(
        report["greedy_that_differ"] or report["seeded_that_differ"] or (together and report["differ_among_others"])
    )
    return report


def cost(plain: str, repeatable: str, bodies: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """How many times longer the same requests take with the option: medians of the pairs, with the least and the most."""
    with (
        httpx.Client(base_url=plain, timeout=600) as first,
        httpx.Client(base_url=repeatable, timeout=600) as second,
        ThreadPoolExecutor(TOGETHER + 1) as pool,
    ):
        report: dict[str, Any] = {"requests": len(bodies), "rounds": rounds}
        for name, run in (
            ("alone", lambda client: [ids_of(client, body) for body in bodies]),
            ("together", lambda client: list(pool.map(lambda body: ids_of(client, body), bodies))),
        ):
            for client in (first, second):
                run(client)
            ratios = [_seconds(run, second) / _seconds(run, first) for _ in range(rounds)]
            told = (statistics.median(ratios), min(ratios), max(ratios))
            report[f"times_as_long_{name}"] = [round(ratio, 2) for ratio in told]
    return report


def _seconds(run: Callable[[httpx.Client], Any], client: httpx.Client) -> float:
    began = time.monotonic()
    run(client)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server; otherwise one is started")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--weights", help="as of serve, such as int8")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--repeatable", action="store_true", help="the server is; then answers among others are compared too"
    )
    parser.add_argument("--lengths", default="4,16,32", help="of outputs, in tokens (default: %(default)s)")
    parser.add_argument("--cost", type=int, metavar="ROUNDS", help="compare a server with the option to one without")
    args = parser.parse_args()
    bodies = make_requests(args.requests, args.seed, [int(length) for length in args.lengths.split(",")])
    arguments = ["--model", args.model, "--dtype", args.dtype]
    arguments += ["--weights", args.weights] if args.weights else []
    about = {"model": args.model, "dtype": args.dtype, "weights": args.weights}
    if args.cost:
        with served(arguments) as (plain, _), served([*arguments, "--repeatable"]) as (repeatable, _):
            print(json.dumps(about | cost(plain, repeatable, bodies, args.cost)))
        return 0
    arguments += ["--repeatable"] if args.repeatable else []
    with contextlib.nullcontext((args.url, 0)) if args.url else served(arguments) as (base, _):
        report = compare(base, bodies, together=args.repeatable)
    print(json.dumps(about | {"repeatable": args.repeatable} | report))
    return 1 if report["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
