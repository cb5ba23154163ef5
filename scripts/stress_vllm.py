#!/usr/bin/env python
"""Guidance in vLLM under random load: every finished request is compared with the stateless loop, none may get lost.

    .venv-vllm/bin/python scripts/stress_vllm.py                      # 24 configurations, 100 requests each
    .venv-vllm/bin/python scripts/stress_vllm.py --configuration 7    # repeat one of them alone
    TRITON_INTERPRET=1 PYTHONPATH=tests/vllm/interpreted .venv-vllm/bin/python scripts/stress_vllm.py    # second runner
    TRITON_F32_DEFAULT=ieee OMP_NUM_THREADS=1 python scripts/stress_vllm.py --jobs 8    # a GPU, eight engines at once

On a GPU, `VLLM_USE_V2_MODEL_RUNNER=0` chooses the first runner. Without `TRITON_F32_DEFAULT=ieee` vLLM's attention there
rounds float32 to TF32, and more than ties differ from the loop, which runs on the CPU in float32 everywhere.

With `--report benchmarks/results/vllm_stress.jsonl`, scripts/vllm_page.py writes the table of docs/vllm.md from it. What the
report has already, of the same release and runner, is not run again, so that a run can be killed and taken up.

Everything is drawn from `--seed` and the configuration's number: the architecture, the cache, the tokens of a step, the
sequences, prefix caching; the arrivals, aborts, lengths, branches, weights, refinements, seeds. A step of the engine is
the clock, so a run repeats exactly. Exit status 1 where a request differs by more than a tie, is lost or stands still.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vllm"))
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CONTEXT_LEN = 256
BLOCK_LEN = 32
VOCAB = 272
MAX_STEPS_A_REQUEST = 200


@dataclass(frozen=True, slots=True)
class Configuration:
    """One engine."""

    architecture: str
    max_num_seqs: int
    max_num_batched_tokens: int
    blocks: int
    prefix_cache: bool
    reserve_full: bool
    watermark: float
    long_prefill: int
    checked_early: bool  # refusals come from the check of parameters; else from the scheduler

    @classmethod
    def drawn(cls, rng: random.Random) -> Configuration:
        sequences = rng.choice([2, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 33])
        return cls(
            architecture=rng.choice(["llama", "qwen3", "gpt2"]),
            max_num_seqs=sequences,
            max_num_batched_tokens=max(sequences, rng.choice([8, 24, 40, 64, 96, 256])),
            blocks=rng.choice([10, 12, 16, 20, 24, 33, 66, 200]),
            prefix_cache=rng.random() < 0.5,
            reserve_full=rng.random() < 0.7,
            watermark=rng.choice([0.0, 0.0, 0.0, 0.05]),
            long_prefill=rng.choice([0, 0, 16]),
            checked_early=rng.random() < 0.5,
        )


@dataclass(slots=True)
class Case:
    """One request and what became of it."""

    name: str
    prompt: list[int]
    contexts: list[list[int]]
    weights: list[float]
    fields: dict[str, Any]
    draw: dict[str, Any]
    max_tokens: int
    stop_ids: list[int]
    arrival: int
    abort: int | None
    output: list[int] | None = None
    finish: str | None = None
    reason: str | int | None = None
    aborted: bool = False
    off: list[tuple[int, float]] = field(default_factory=list)


def drawn_cases(rng: random.Random, number: int) -> list[Case]:
    """Random requests; half of them share a beginning with others, so that prefix caching has something to share."""
    beginnings = [[rng.randrange(256) for _ in range(96)] for _ in range(3)]

    def ids(longest: int) -> list[int]:
        length = rng.randint(1, rng.choice([4, 40, longest]))
        shared = rng.choice(beginnings)[: rng.choice([0, 0, 32, 64, 96])][: length - 1]
        return shared + [rng.randrange(256) for _ in range(length - len(shared))]

    cases, step = [], 0
    pause = rng.choice([0.3, 1, 3, 8])
    for index in range(number):
        step += int(rng.expovariate(1 / pause))
        count = rng.choice([0, 0, 1, 1, 1, 1, 2, 3])
        scale = rng.choice([0.0, 0.5, 1.3, 1.5, 3.0, 7.5])
        weights = [1 - scale] if count == 1 else [rng.choice([-1.5, -0.5, 0.3, 0.7]) for _ in range(count)]
        fields = {
            "space": rng.choice(["log", "prob"]),
            "plausibility": rng.choice([0.0, 0.0, 0.1]),
            "gate": rng.choice([0.0, 0.0, 0.7]),
            "start": rng.choice([0, 0, 2]),
            "stop": rng.choice([None, None, 12]),
            "adaptive": rng.choice([None, None, "jsd"]),
        }
        draw = (
            {"temperature": 0.0}
            if rng.random() < 0.6
            else {
                "temperature": rng.choice([0.5, 1.0, 1.4]),
                "top_k": rng.choice([0, 0, 20]),
                "top_p": rng.choice([1.0, 1.0, 0.9]),
                "seed": rng.randrange(2**31),
            }
        )
        cases.append(
            Case(
                name=f"r{index}",
                prompt=ids(150),
                contexts=[ids(150) for _ in range(count)],
                weights=weights,
                fields=fields if count else {},
                draw=draw,
                max_tokens=rng.randint(1, rng.choice([6, 30, 90])),
                stop_ids=[rng.randrange(256)] if rng.random() < 0.3 else [],
                arrival=step,
                abort=step + rng.randint(0, 60) if rng.random() < 0.15 else None,
            )
        )
    return cases


def engine(configuration: Configuration, folder: Path) -> Any:
    import engines
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from counterpoint.vllm import check, engine_args

    if not configuration.checked_early:
        check._arriving = lambda: None
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            block_size=BLOCK_LEN,
            kv_cache_memory_bytes=1 << 24,
            num_gpu_blocks_override=configuration.blocks,
            max_num_seqs=configuration.max_num_seqs,
            max_num_batched_tokens=configuration.max_num_batched_tokens,
            enable_prefix_caching=configuration.prefix_cache,
            scheduler_reserve_full_isl=configuration.reserve_full,
            watermark=configuration.watermark,
            long_prefill_token_threshold=configuration.long_prefill,
            **engines.room(),
            **engine_args(),
        )
    )


def drive(running: Any, cases: list[Case]) -> dict[str, Any]:
    """Feed the engine by steps until all is done. Returns what was seen; `stuck` holds the state of a stall."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    scheduler = running.engine_core.engine_core.scheduler
    todo, by_name, step = sorted(cases, key=lambda case: case.arrival), {case.name: case for case in cases}, 0
    alive: set[str] = set()
    while todo or alive:
        while todo and todo[0].arrival <= step:
            case = todo.pop(0)
            params = SamplingParams(
                max_tokens=case.max_tokens, stop_token_ids=case.stop_ids, extra_args=arguments(case), **case.draw
            )
            try:
                running.add_request(case.name, {"prompt_token_ids": case.prompt}, params)
            except VLLMValidationError as error:
                case.output, case.finish, case.reason = [], "error", str(error)
            else:
                alive.add(case.name)
        for case in cases:
            if case.abort == step and case.name in alive:
                running.abort_request([case.name])
                case.aborted = True
                alive.discard(case.name)
        for output in running.step():
            if output.finished:
                case, first = by_name[output.request_id], output.outputs[0]
                assert case.name in alive, f"{case.name} finished twice"
                case.output, case.finish, case.reason = list(first.token_ids), first.finish_reason, first.stop_reason
                alive.discard(case.name)
        step += 1
        if step > MAX_STEPS_A_REQUEST * len(cases):
            states = [scheduler.state(group) for group in scheduler.groups]
            return {"stuck": states, "alive": sorted(alive), "steps": step}
    for _ in range(3):
        running.step()
    free, total = scheduler.kv_cache_manager.block_pool.get_num_free_blocks(), scheduler.capacity
    left = [len(scheduler.groups), len(scheduler.requests), len(scheduler.running), len(scheduler.waiting)]
    return {
        "stuck": None,
        "steps": step,
        "left_over": left,
        "blocks_not_freed": scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1 - free,
        "counts": asdict(scheduler.metrics.counts),
        "capacity": total,
    }


def device() -> str:
    """What the engine runs on: "cpu", or the GPU's name."""
    from vllm.platforms import current_platform

    return "cpu" if current_platform.is_cpu() else current_platform.get_device_name()


def arguments(case: Case) -> dict[str, Any] | None:
    """The `extra_args` of a case's request."""
    branches = [{"prompt_ids": ids, "weight": w} for ids, w in zip(case.contexts, case.weights, strict=True)]
    return {"guidance": {**case.fields, "branches": branches}} if branches else None


def expected_length(case: Case, capacity: Any) -> int:
    """Most tokens that a request can have; raises where it must be refused."""
    from vllm import SamplingParams

    from counterpoint.vllm.arrival import refuse_idle
    from counterpoint.vllm.params import read

    plan = read(arguments(case))
    if plan is None:
        return CONTEXT_LEN
    left = capacity.tokens_left([len(case.prompt), *map(len, case.contexts)])
    params = SamplingParams(**case.draw)
    refuse_idle(plan, params, num_tokens=min(left, case.max_tokens), vocab_size=VOCAB, alone=True)
    return left


def verify(cases: list[Case], folder: Path, capacity: Any) -> dict[str, int]:
    """Compare with the loop. Counts: equal, tie, different, aborted, refused, lost."""
    import stateless

    from counterpoint.errors import UsageError
    from counterpoint.guide import Guide

    loop = stateless.Stateless(folder)
    result = dict.fromkeys(("equal", "tie", "different", "aborted", "refused", "lost"), 0)
    for case in cases:
        if case.output is None:
            result["aborted" if case.aborted else "lost"] += 1
            continue
        try:
            room = expected_length(case, capacity)
        except UsageError:
            result["refused" if case.finish == "error" and not case.output else "different"] += 1
            continue
        ends = {256, *case.stop_ids}
        length = min(case.max_tokens, room, CONTEXT_LEN - len(case.prompt))
        whole = case.output[-1] in ends if case.finish == "stop" else len(case.output) == length
        job = stateless.Job(case.prompt, case.contexts, case.weights, Guide(**case.fields))
        rows = loop.guided(job, case.output[:-1])
        case.off = stateless.replay(rows, case.output, stateless.Draw(**case.draw), len(case.prompt))
        if not whole or case.finish not in ("stop", "length") or ends & set(case.output[:-1]):
            case.off.append((len(case.output), float("inf")))
        worst = max((margin for _, margin in case.off), default=0.0)
        result["different" if worst > stateless.TIE else "tie" if worst else "equal"] += 1
    return result


def run_one(seed: int, number: int, requests: int, folder: Path) -> dict[str, Any]:
    import tiny_models

    from counterpoint.vllm import versions

    name = f"{seed}/{number}"
    configuration = Configuration.drawn(random.Random(name))
    cases = drawn_cases(random.Random(name + "/requests"), requests)
    tiny_models.save(folder, configuration.architecture, seed=number, context_len=CONTEXT_LEN)
    started = time.perf_counter()
    running = engine(configuration, folder)
    ready = time.perf_counter()
    seen = drive(running, cases)
    done = time.perf_counter()
    verdict = verify(cases, folder, seen.pop("capacity")) if seen["stuck"] is None else {"lost": len(seen["alive"])}
    return {
        "configuration": number,
        "seed": seed,
        "vllm": versions.installed(),
        "runner": "second" if running.vllm_config.use_v2_model_runner else "first",
        "device": device(),
        "torch": metadata.version("torch"),
        **asdict(configuration),
        "requests": requests,
        **seen,
        **verdict,
        "differences": {case.name: case.off for case in cases if any(margin > 1e-4 for _, margin in case.off)},
        "start_s": round(ready - started, 1),
        "run_s": round(done - ready, 1),
    }


def run_apart(
    seed: int, numbers: Iterable[int], requests: int, folder: Path, jobs: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`run_one` of every number, `jobs` at once; the rows as they come.

    Each has a process of its own, forked from this one, which has imported vLLM, started no thread and touched no GPU.
    """
    import stateless  # noqa: F401
    import vllm.v1.engine.llm_engine  # noqa: F401

    fork, todo, running = multiprocessing.get_context("fork"), list(numbers), {}
    while todo or running:
        while todo and len(running) < jobs:
            number = todo.pop(0)
            ours, its = fork.Pipe(duplex=False)
            process = fork.Process(target=_run_and_send, args=(its, seed, number, requests, folder / str(number)))
            process.start()
            its.close()
            running[ours] = number, process
        for ours in multiprocessing.connection.wait(list(running)):
            number, process = running.pop(ours)
            try:
                row = ours.recv()
            except EOFError:  # it ended without a word
                process.join()
                row = {"configuration": number, "error": f"the process ended with exit code {process.exitcode}"}
            process.join()
            yield number, row


def _run_and_send(to: Connection, seed: int, number: int, requests: int, folder: Path) -> None:
    try:
        to.send(run_one(seed, number, requests, folder))
    except Exception:  # noqa: BLE001, whatever it is, the other configurations run
        to.send({"configuration": number, "error": traceback.format_exc()})


def failed(row: dict[str, Any]) -> bool:
    """Whether a configuration's run shows a fault."""
    return bool(
        row.get("error")
        or row["stuck"]
        or row["lost"]
        or row["different"]
        or row["blocks_not_freed"]
        or any(row["left_over"])
        or row["counts"]["stalls"]
    )


def done_before(options: argparse.Namespace) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """What the report has of this very run, by the configuration's number; and all that it has."""
    import stateless

    from counterpoint.vllm import versions

    if options.report is None or not options.report.exists():
        return {}, []
    kept = [json.loads(line) for line in options.report.read_text().splitlines()]
    runner = "second" if stateless.second_runner() else "first"
    this = versions.installed(), runner, device(), options.seed, options.requests
    same = [
        row for row in kept if tuple(row[name] for name in ("vllm", "runner", "device", "seed", "requests")) == this
    ]
    return {row["configuration"]: row for row in same}, kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configurations", type=int, default=24)
    parser.add_argument("--requests", type=int, default=100, help="for each configuration")
    parser.add_argument("--configuration", type=int, help="run this one alone, in this process")
    parser.add_argument("--jobs", type=int, default=1, help="configurations at once")
    parser.add_argument("--report", type=Path, help="write every configuration's row here, as JSON Lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.configuration is not None:
            row = run_one(options.seed, options.configuration, options.requests, Path(folder))
            print(json.dumps(row))
            return int(failed(row))
        rows, kept = done_before(options)
        todo = [number for number in range(options.configurations) if number not in rows]
        for number, row in run_apart(options.seed, todo, options.requests, Path(folder), options.jobs):
            rows[number] = row
            print(json.dumps(row), flush=True)
            if options.report and not row.get("error"):
                kept.append(row)
                made = options.report.with_suffix(".new")
                made.write_text("".join(json.dumps(each) + "\n" for each in kept))
                made.replace(options.report)
    rows = [rows[number] for number in sorted(rows)]
    names = ("requests", "equal", "tie", "different", "aborted", "refused", "lost", "steps")
    total = {name: sum(row.get(name) or 0 for row in rows) for name in names}
    for name in ("held_steps", "preempted_groups", "guided_requests", "stalls"):
        total[name] = sum((row.get("counts") or {}).get(name, 0) for row in rows)
    wrong = [row["configuration"] for row in rows if failed(row)]
    print(json.dumps({"seed": options.seed, "configurations": len(rows), **total, "failed": wrong}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
