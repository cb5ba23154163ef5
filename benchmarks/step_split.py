"""Where a step of many requests goes: the model's forward, the choice of tokens, and the rest, which is ours.

    python benchmarks/step_split.py
    python benchmarks/step_split.py --model 124m --dtype bfloat16

Prompts have different lengths. The forward is the model's own; masks, packing and the texts are in the rest, but for the
text of a chosen token, which the choice includes. Medians over the steps after the third, the best of the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import statistics
import time
from unittest import mock

import torch

import counterpoint as cp
from counterpoint.bench.shapes import random_model
from counterpoint.bench.ways import Clock, Task, stepped
from counterpoint.engine import Engine, Request, loop
from counterpoint.models.model import Model

KINDS = {
    "unguided, greedy": (False, {"temperature": 0.0}),
    "guided, greedy": (True, {"temperature": 0.0}),
    "guided, sampled": (True, {"temperature": 0.8}),
    "guided, top-p 0.9": (True, {"temperature": 0.8, "top_p": 0.9}),
}


def requests(model: Model, kind: str, count: int, num_tokens: int) -> list[Request]:
    guided, sampling = KINDS[kind]
    rng = random.Random(0)
    made = []
    for _ in range(count):
        prompt, negative = (
            tuple(rng.randrange(model.vocab_size) for _ in range(rng.randint(8, most))) for most in (60, 16)
        )
        request = Task(prompt, (negative,), num_tokens=num_tokens).request(guided=guided)
        made.append(dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, **sampling)))
    return made


def split(model: Model, asked: list[Request]) -> tuple[float, float, float]:
    """Milliseconds of a step, of its forward, and of its choice."""
    engine, clock, chosen_s = Engine(model, pauses=False), Clock(), []
    for request in asked:
        engine.add(request)
    inner = loop.choose

    def choose(sequences):
        start = time.perf_counter()
        made = inner(sequences)
        chosen_s.append(time.perf_counter() - start)
        return made

    with mock.patch.object(loop, "choose", choose):
        for _ in stepped(engine, model, clock):
            pass
    return tuple(1e3 * statistics.median(taken[3:]) for taken in (clock.steps_s, clock.forward_s, chosen_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="bundled, or 124m with random weights")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--counts", default="1,16")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    model = random_model("gpt2-124m", args.dtype) if args.model == "124m" else cp.load(args.model, dtype=args.dtype)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{args.model} {args.dtype}, {args.tokens} tokens, {args.rounds} rounds")  # fmt: skip
    print("| requests | | a step, ms | forward | choice | rest | ours |\n|---|---|---|---|---|---|---|")
    rows = []
    for count in map(int, args.counts.split(",")):
        for kind in KINDS:
            asked = requests(model, kind, count, args.tokens)
            step, forward, choice = min(split(model, asked) for _ in range(args.rounds))
            row = {"requests": count, "kind": kind, "step_ms": step, "forward_ms": forward, "choice_ms": choice}
            rest, ours = step - forward - choice, 100 * (step - forward) / step
            print(f"| {count} | {kind} | {step:.2f} | {forward:.2f} | {choice:.2f} | {rest:.2f} | {ours:.0f} % |")
            rows.append({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
