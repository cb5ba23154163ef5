"""What recording a trace costs: steps of a 124M GPT-2 (random weights) with a negative, watched and not watched.

    python benchmarks/trace_cost.py [--steps 30] [--rounds 4]

Watched and unwatched runs take turns, on one thread, and processor time is counted, so that other work on the machine
matters little. The cost is the difference of the medians of their steps, and beside it the time spent in the recorder
itself. Prints one JSON object with machine and versions.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import counterpoint as cp
from counterpoint.engine import Engine, prepare
from counterpoint.trace.recorder import Recorder


def steps_s(model: cp.Model, num_steps: int, *, watched: bool, temperature: float) -> tuple[list[float], float]:
    """Processor seconds of each step after the first, and those spent in the recorder during them."""
    spent = 0.0
    request = prepare(
        model, list(range(100, 140)), negative=list(range(200, 230)), guide=cp.Guide(scale=1.5), max_tokens=num_steps + 1,
        temperature=temperature, seed=0, ignore_eos=True,
    )  # fmt: skip
    recorder = Recorder(request)

    def observe(index, seen):
        nonlocal spent
        start = time.process_time()
        recorder(index, seen)
        spent += time.process_time() - start

    engine = Engine(model)
    engine.add(dataclasses.replace(request, observe=observe) if watched else request)
    engine.step()
    spent, taken = 0.0, []
    while not engine.is_idle:
        start = time.process_time()
        engine.step()
        taken.append(time.process_time() - start)
    return taken, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = cp.Model(GPT2LMHeadModel(GPT2Config()), name="gpt2, random weights")
    results = {}
    for name, temperature in (("greedy", 0.0), ("sampling", 1.0)):
        times: dict[bool, list[float]] = {False: [], True: []}
        in_recorder = 0.0
        steps_s(model, 5, watched=True, temperature=temperature)
        for _ in range(options.rounds):
            for watched in (False, True):
                taken, spent = steps_s(model, options.steps, watched=watched, temperature=temperature)
                times[watched] += taken
                in_recorder += spent
        plain, traced = statistics.median(times[False]), statistics.median(times[True])
        results[name] = {
            "step_ms": round(1e3 * plain, 2),
            "traced_step_ms": round(1e3 * traced, 2),
            "cost_percent": round(100 * (traced / plain - 1), 1),
            "recorder_ms": round(1e3 * in_recorder / len(times[True]), 2),
            "recorder_percent": round(100 * in_recorder / sum(times[True]), 1),
        }
    facts = {
        "machine": f"{_cpu()}, 1 of {os.cpu_count()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "parameters": sum(p.numel() for p in model.hf.parameters()),
        "steps": options.steps * options.rounds,
    }
    print(json.dumps(facts | results, indent=1))


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
