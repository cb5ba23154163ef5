"""Measures speed in pieces and writes docs/performance.md.

    python benchmarks/performance.py measure bfloat16 float32 ...     # results go to benchmarks/results/performance/
    python benchmarks/performance.py render

Pieces, all but the last two lines with GPT-2's 124M configuration and random weights:

    bfloat16, float32, int8      one request; int8 is rounded weights and bfloat16 states. Also -compiled, -plain
    batch-bfloat16, ...          16 requests at once; also -compiled
    text-bfloat16, ...           drafts on real texts that repeat a passage; also -compiled
    long-bfloat16, ...           contexts of 256, 1024 and 4096 tokens, 1 to 8 branches
    bundled                      the bundled model
    smollm2, llama-0.5b, batches beside llama.cpp, on other models: see peers.py
    gpu-SHAPE                    on a GPU in bfloat16: one request, and 16 and 32 at once. Also -plain; -compiled is one request
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import peers

from counterpoint.bench import measure
from counterpoint.bench.machine import describe_machine, read_bandwidth
from counterpoint.bench.measure import Line
from counterpoint.bench.shapes import random_model
from counterpoint.bench.table import as_json, as_markdown, as_svg
from counterpoint.bench.texts import rewritings
from counterpoint.bench.ways import Task

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "performance"
TEMPLATE = HERE / "performance.md.in"
PAGE = HERE.parent / "docs" / "performance.md"
ROUNDS = int(os.environ.get("ROUNDS", "5"))

AIMS = {
    "bfloat16": {
        "ours guided / ours unguided": 1.10,
        "ours guided / transformers guided": 0.30,
        "ours guided / transformers unguided": 0.55,
        "limit": 2,
    },
    "float32": {
        "ours guided / ours unguided": 1.15,
        "ours guided / transformers guided": 0.50,
        "ours guided / transformers unguided": 1.00,
        "limit": 2,
    },
}
DTYPES = (*AIMS, "int8")
PROMPTS = ["The old man walked to the river and", "In the morning she opened the door and", "It was a long"]
CONTEXTS, BRANCHES = (256, 1024, 4096), (1, 2, 4, 8)


def run(piece: str) -> list[Line]:
    name, _, how = piece.partition("-compiled") if "-compiled" in piece else piece.partition("-plain")
    compile = True if piece.endswith("-compiled") else False if piece.endswith("-plain") else "auto"
    kind, _, dtype = name.rpartition("-")
    if piece == "bundled":
        return bundled()
    if piece in peers.PIECES:
        return peers.PIECES[piece](ROUNDS)
    if name.startswith("gpu-"):
        return on_gpu(name.removeprefix("gpu-"), compile)
    if how or dtype not in DTYPES or kind not in ("", "batch", "text", "long"):
        raise SystemExit(f"there is no piece {piece!r}")
    weights, dtype = ("int8", "bfloat16") if dtype == "int8" else (None, dtype)
    if kind == "long":
        model = random_model("gpt2-124m", dtype, compile=compile, weights=weights, context_len=max(CONTEXTS) + 256)
        return measure.long_contexts(model, branches=BRANCHES, context_lens=CONTEXTS)
    model = random_model("gpt2-124m", dtype, compile=compile, weights=weights)
    rival = random_model("gpt2-124m", dtype).hf
    if kind == "":
        task = measure.random_task(model, num_tokens=64)
        aims = {} if weights else AIMS[dtype]  # rounded weights predict otherwise, so they reach no aim
        return measure.one_request(model, task, rounds=ROUNDS, aims=aims, rival=rival) + measure.branch_bytes(
            model, task
        )
    if kind == "batch":
        task = measure.random_task(model, num_tokens=16)
        return measure.many_requests(model, [task] * 16, rounds=ROUNDS, aim=None if weights else 0.08, rival=rival)
    aim = 0.35 if dtype == "bfloat16" and not weights else None
    return measure.rewritten(model, draft_tokens=7, num_tokens=96, rounds=ROUNDS, aim=aim, rival=rival)


def on_gpu(shape: str, compile: bool | str) -> list[Line]:
    model = random_model(shape, "bfloat16", compile=compile, device="cuda")
    task, few = (measure.random_task(model, num_tokens=number) for number in (64, 16))
    lines = measure.one_request(model, task, rounds=ROUNDS, rival=model.hf)
    for number in (16, 32) if compile is not True else ():  # each would be compiled
        lines += measure.many_requests(model, [few] * number, rounds=ROUNDS, rival=model.hf)
    return lines


def bundled() -> list[Line]:
    import counterpoint as cp

    model = cp.load("bundled")
    prompt, negative = (tuple(model.encode(text)) for text in (PROMPTS[0], "Once upon a time"))
    mild = Task(prompt, (negative,), scale=1.5, num_tokens=96)
    return [
        *measure.one_request(model, measure.random_task(model, num_tokens=64), rounds=ROUNDS),
        *measure.decided(model, PROMPTS, negative="Once upon a time", scale=3.0, plausibility=0.1),
        *measure.run_ahead(model, mild, draft_tokens=4, rounds=ROUNDS),
    ]


def render() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    if not found:
        raise SystemExit("nothing is measured yet")
    tables, bars, missed = [], [], []
    for name, result in found.items():
        lines = [Line(**line) for line in result["lines"]]
        facts = ", ".join(f"{k} {v}" for k, v in result["machine"].items())
        table = as_matrix(lines) if name.startswith("long-") else as_markdown(lines)
        missed += [
            f"- {name}: {x.name}: {x.value:.2f}{x.unit and ' ' + x.unit}, not {x.aim:g}"
            for x in lines
            if x.aim is not None and x.value > x.aim
        ]
        tables.append(f"### {name}\n\n`python benchmarks/performance.py measure {name}`; {facts}\n\n{table}\n")
        if name in DTYPES:
            bars += [(f"{name}: {x.name}", x.value) for x in lines if x.unit == "ms a token"]
    if bars:
        (PAGE.parent / "performance.svg").write_text(as_svg(bars, unit="ms a token"))
    head = (
        "<!-- Generated by: python benchmarks/performance.py render. Edit benchmarks/performance.md.in instead. -->\n\n"
    )
    parts = {
        "@TABLES@": "\n".join(tables),
        "@MISSED@": "\n".join(missed) or "None.",
        "@TEXTS@": "\n".join(f"  - {one.name}: {one.source}" for one in rewritings()),
    }
    page = TEMPLATE.read_text()
    for mark, text in parts.items():
        page = page.replace(mark, text)
    PAGE.write_text(head + page)


def as_matrix(lines: list[Line]) -> str:
    """Contexts down, branches across, from the lines of `measure.long_contexts`."""
    values = {line.name: f"{line.value:.3g}" for line in lines}
    out = ["| ms a step (share beside the forward; buffers) | " + " | ".join(f"{b} branches" for b in BRANCHES) + " |"]
    out.append("|---" * (1 + len(BRANCHES)) + "|")
    for length in CONTEXTS:
        names = [f"{number} of {length}" for number in BRANCHES]
        cells = [
            f"{values[n + ': a step']} ({values[n + ': beside the forward']} %; {values[n + ': buffers']} MiB)"
            for n in names
        ]
        out.append(f"| {length} tokens each | " + " | ".join(cells) + " |")
    return "\n".join(out)


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=True).stdout.strip()


def main(arguments: list[str]) -> None:
    if arguments == ["render"]:
        return render()
    if not arguments or arguments[0] != "measure":
        raise SystemExit(__doc__)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for piece in arguments[1:]:
        start, load, device = time.time(), os.getloadavg()[0], "cuda" if piece.startswith("gpu-") else "cpu"
        lines = run(piece)
        commit = os.environ.get("COMMIT") or _commit()  # a machine that has no git is told
        machine = {
            "compile": "True" if piece.endswith("-compiled") else "False" if piece.endswith("-plain") else "auto",
            **describe_machine(device),
            "bandwidth": f"{read_bandwidth(device) / 1e9:.1f} GB/s",
            "rounds": str(ROUNDS),
            "load at the start": f"{load:.1f}",
            "commit": commit,
        }
        (RESULTS / f"{piece}.json").write_text(
            json.dumps({"machine": machine, "lines": as_json(lines)}, indent=1) + "\n"
        )
        print(piece, f"{time.time() - start:.0f} s", as_markdown(lines), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
