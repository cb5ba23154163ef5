"""Does a server repeat itself? The same requests twice on an idle server, and alone against among others.

    python scripts/repeats.py --model bundled --dtype bfloat16 --requests 200
    python scripts/repeats.py --model bundled --dtype bfloat16 --requests 50 --repeatable

Half of the requests are greedy and half seeded, most of them guided, with beginnings that they share. Each is sent twice, one
at a time; with --repeatable each is also sent among 16 others. Token ids are compared. Without --url a server is started.
Exits with 1 on a difference. Tells the tokens a second of both ways, for what the option costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from soak_server import WORDS, served

TOGETHER = 16


def make_requests(count: int, seed: int) -> list[dict[str, Any]]:
    """Different requests; every second one is seeded."""
    rng = random.Random(seed)
    shared = [" ".join(rng.choices(WORDS, k=150)) for _ in range(3)]
    made = []
    for number in range(count):
        begin = rng.choice([*shared, ""])[: rng.choice([0, 100, 400, 800])]
        body = {
            "prompt": f"{begin} {' '.join(rng.choices(WORDS, k=rng.randint(1, 40)))}",
            "max_tokens": rng.choice([4, 16, 32]),
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
    args = parser.parse_args()
    bodies = make_requests(args.requests, args.seed)
    arguments = ["--model", args.model, "--dtype", args.dtype]
    arguments += ["--weights", args.weights] if args.weights else []
    arguments += ["--repeatable"] if args.repeatable else []
    with contextlib.nullcontext((args.url, 0)) if args.url else served(arguments) as (base, _):
        report = compare(base, bodies, together=args.repeatable)
    print(json.dumps({"model": args.model, "dtype": args.dtype, "repeatable": args.repeatable} | report))
    return 1 if report["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
