"""What docs/jobs.md promises of `counterpoint batch`, tried: kills, a full disk, a cut last line, memory, throughput.

    python scripts/jobs.py kill --rounds 50
    python scripts/jobs.py disk          # as root, where a small tmpfs can be mounted
    python scripts/jobs.py memory        # a million lines against a thousand
    python scripts/jobs.py throughput    # against cp.generate on the same prompts, in one process by turns

Each prints what it found and exits with 1 where a promise does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY_MB = 100
SHARE = 0.95
OPENINGS = (
    "The old house",
    "In the morning",
    "She opened the letter and",
    "A long time ago",
    "He said that",
    "Rain fell on",
)


def write_lines(path: Path, count: int, max_tokens: int) -> None:
    """Prompts that differ; every third one is guided, every seventh one sampled."""
    with open(path, "w") as file:
        for k in range(count):
            line = {"prompt": f"{OPENINGS[k % len(OPENINGS)]} {k}", "max_tokens": max_tokens, "temperature": 0}
            line |= {"negative": "A list of", "scale": 2} if k % 3 == 0 else {}
            line |= {"temperature": 0.9} if k % 7 == 0 else {}
            file.write(json.dumps(line) + "\n")


def command(source: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "counterpoint", "batch", str(source), str(output), "--quiet", "--window", "32"]


def answers(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def differences(got: Path, want: Path) -> list[str]:
    """What tells two outputs apart beside the order of their lines."""
    by_line = {one["line"]: one for one in answers(want)}
    found = answers(got)
    wrong = []
    if len({one["line"] for one in found}) < len(found):
        wrong.append("a line is answered twice")
    if {one["line"] for one in found} != by_line.keys():
        wrong.append(f"{len(by_line.keys() - {one['line'] for one in found})} lines are lost")
    num_other = sum(one != by_line.get(one["line"]) for one in found)
    return wrong + ([f"{num_other} answers differ"] if num_other else [])


def kill(args: argparse.Namespace) -> list[str]:
    """Killed so many times at a random moment, then run to the end; against a run that nobody killed."""
    folder, chance = Path(tempfile.mkdtemp()), random.Random(args.seed)
    source, whole, killed = folder / "in.jsonl", folder / "whole.jsonl", folder / "killed.jsonl"
    write_lines(source, args.lines, args.max_tokens)
    subprocess.run(command(source, whole), check=True)
    num_early = num_cut = num_finished = 0
    for number in range(args.rounds):
        before = killed.read_bytes().count(b"\n") if killed.exists() else 0
        process = subprocess.Popen(command(source, killed))
        # At a moment of the whole run, loading included, or once some more lines are there.
        until = time.monotonic() + chance.uniform(0, 2 * args.load_s)
        more = chance.randrange(1, max(2, 2 * args.lines // args.rounds))
        while process.poll() is None:
            grown = (killed.read_bytes().count(b"\n") if killed.exists() else 0) - before
            if (number % 2 and time.monotonic() > until) or (not number % 2 and grown >= more):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(chance.uniform(0, 0.02))
        num_finished += process.wait() == 0
        data = killed.read_bytes() if killed.exists() else b""
        num_early += data.count(b"\n") == before
        if number % 10 == 9 and data:  # as a kill of the machine may leave it
            killed.write_bytes(data[: -chance.randrange(1, 30)])
            num_cut += 1
    subprocess.run(command(source, killed), check=True)
    print(
        f"{args.rounds} kills over {args.lines} lines: {num_early} before the first answer of their run, {num_finished} runs had "
        f"ended before; {num_cut} times the last line was cut too"
    )
    return differences(killed, whole)


def disk(args: argparse.Namespace) -> list[str]:
    """On a tmpfs that is too small, then with more room."""
    folder = Path(tempfile.mkdtemp())
    source, whole, small = folder / "in.jsonl", folder / "whole.jsonl", folder / "small"
    write_lines(source, args.lines, args.max_tokens)
    subprocess.run(command(source, whole), check=True)
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    wrong = []
    try:
        output = small / "out.jsonl"
        for size in ("96k", "128k", "16m"):
            done = subprocess.run(command(source, output), capture_output=True, text=True)
            said = done.stderr.strip()
            data = output.read_bytes()
            num_lines = data.count(b"\n")
            print(f"exit {done.returncode}, {num_lines} whole lines, said: {said}")
            if (
                done.returncode != 1
                or "make room" not in said
                or len(said.splitlines()) != 1
                or not data.endswith(b"\n")
            ):
                wrong.append("a full disk is not one line and whole lines")
            subprocess.run(["mount", "-o", f"remount,size={size}", str(small)], check=True)
        subprocess.run(command(source, output), check=True)
        wrong += differences(output, whole)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    return wrong


def memory(args: argparse.Namespace) -> list[str]:
    """Resident memory at its highest, of processes with many lines and with few."""
    wrong = []
    for kind in ("lines", "openai", "engine"):
        highest = {}
        for count in (1_000, args.lines):
            script = [sys.executable, __file__, "one", "--kind", kind, "--lines", str(count)]
            told = json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout)
            highest[count] = told["mib"]
            print(f"{kind}: {count} lines, {told['mib']:.0f} MiB at most, {told['seconds']:.0f} s", flush=True)
        if highest[args.lines] - highest[1_000] > MEMORY_MB:
            wrong.append(f"{kind}: {highest[args.lines] - highest[1_000]:.0f} MiB more")
    return wrong


def one(args: argparse.Namespace) -> list[str]:
    """A job of short answers: lines echoed in one of the two forms, or answered by an engine on a model of few weights."""
    from counterpoint.batch.files import open_lines
    from counterpoint.batch.forms import Lines, OpenAI
    from counterpoint.batch.job import Result, run_job
    from counterpoint.batch.journal import Journal

    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        with open(source, "w") as file:
            for k in range(args.lines):
                ours = {"prompt": [1 + k % 50, 1 + k % 7], "max_tokens": 1, "temperature": 0, "id": k}
                theirs = {"custom_id": f"request-{k}", "url": "/v1/completions", "body": {"prompt": "p"}}
                file.write(json.dumps(theirs if args.kind == "openai" else ours) + "\n")
        form = OpenAI() if args.kind == "openai" else Lines()
        answer = (200, "r", {"text": "x"}) if args.kind == "openai" else [{"text": "x"}]
        runner = _engine() if args.kind == "engine" else (lambda tasks: (Result(t, answer=answer) for t in tasks))
        journal = Journal(str(output), identity={}, facts={}, read=form.entry)
        began = time.monotonic()
        with open_lines(str(source)) as lines:
            progress = run_job(lines, form, runner, journal)
        journal.close()
        assert progress.num_answers == args.lines
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"mib": highest, "seconds": time.monotonic() - began}))
    return []


def _engine():
    from transformers import GPT2Config, GPT2LMHeadModel

    import counterpoint as cp
    from counterpoint.batch.own import Defaults, OwnEngine
    from counterpoint.engine import Engine

    config = GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=64, n_positions=16, bos_token_id=0, eos_token_id=0)
    return OwnEngine(Engine(cp.Model(GPT2LMHeadModel(config))), Defaults())


def throughput(args: argparse.Namespace) -> list[str]:
    """A job and one call of `generate` by turns in one process, so that both meet the same machine."""
    import counterpoint as cp
    from counterpoint.batch.forms import Lines
    from counterpoint.batch.job import run_job
    from counterpoint.batch.journal import Journal
    from counterpoint.batch.own import Defaults, OwnEngine
    from counterpoint.engine import Engine

    model, guide, negative = cp.load(args.model), cp.Guide(scale=2.0), "A list of"
    options = {"max_tokens": args.max_tokens, "temperature": 0, "ignore_eos": True}
    prompts = [f"{OPENINGS[k % len(OPENINGS)]} {k}" for k in range(args.lines)]
    lines = [json.dumps({"prompt": prompt}).encode() for prompt in prompts]

    def job() -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "out.jsonl"
            journal = Journal(str(output), identity={}, facts={}, read=Lines().entry)
            run_job(lines, Lines(), OwnEngine(Engine(model), Defaults(options, guide, negative, seed=0)), journal)
            journal.close()
            return [a["completions"][0]["text"] for a in sorted(answers(output), key=lambda a: a["line"])]

    def call() -> list[str]:
        return [
            one.text for one in cp.generate(model, prompts, negative=[negative] * len(prompts), guide=guide, **options)
        ]

    ratios, wrong = [], []
    for number in range(args.rounds + 1):
        took = {}
        for way in (job, call) if number % 2 else (call, job):
            began = time.process_time()
            texts = way()
            took[way] = time.process_time() - began
            if number == 0 and way is call:
                first = texts
        if texts != first:
            wrong.append("the answers differ")
        if number:  # the first warms up
            ratios.append(took[call] / took[job])
    middle = statistics.median(ratios)
    print(
        f"{args.lines} prompts of {args.max_tokens} tokens, guided, {args.model}, {args.rounds} rounds: a job has {middle:.3f} of the "
        f"throughput of one call (processor time; {min(ratios):.3f} to {max(ratios):.3f})"
    )
    return wrong + ([f"the throughput is {middle:.3f}, below {SHARE}"] if middle < SHARE else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function, defaults in (
        (kill, {"lines": 4000, "max_tokens": 8, "rounds": 50, "seed": 0, "load_s": 5.0}),
        (disk, {"lines": 1000, "max_tokens": 8}),
        (memory, {"lines": 1_000_000}),
        (one, {"lines": 1000, "kind": "lines"}),
        (throughput, {"lines": 256, "max_tokens": 32, "rounds": 5, "model": "bundled"}),
    ):
        sub = commands.add_parser(function.__name__, help=(function.__doc__ or "").splitlines()[0])
        for name, value in defaults.items():
            sub.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
        sub.set_defaults(run=function)
    args = parser.parse_args()
    wrong = args.run(args)
    for line in wrong:
        print(f"FAILED: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
