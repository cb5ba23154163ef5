"""counterpoint assign"""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.kinds import FILE, OUTPUT, Count, Input, Pair
from counterpoint.cli.options import GUIDE, MODEL, guide_from, needs, open_model, plain_warnings, read_text
from counterpoint.errors import PromptError, UsageError


def _check(options: Options) -> None:
    _capacity(options, _options(options))


@click.command("assign", cls=Command, groups=(GUIDE, MODEL), check=_check)
@click.argument("source", metavar="FILE.jsonl", type=Input(dash=True))
@click.option("--options", required=True, metavar="A,B,...", help="The options' names; quoted where they hold commas.")
@click.option(
    "--text", multiple=True, type=Pair("NAME", "TEXT"), help="What an option writes.  [default: a space and its name]"
)
@click.option(
    "--capacity",
    multiple=True,
    type=Pair("NAME", "COUNT", example="--capacity A=15"),
    help="Most prompts that get it, or LEAST..MOST; may be given several times.",
)
@click.option("--negative", default=None, metavar="TEXT", help="For lines that have none.")
@click.option("--negative-file", type=FILE, default=None, help="Read it from a file.")
@click.option("--output", "-o", type=OUTPUT, default=None, help="Write lines to this file, not to standard output.")
@click.option(
    "--store", type=OUTPUT, default=None, help="Keep scores here; the same command goes on where it was killed."
)
@click.option("--batch-size", type=Count(1), default=16, show_default=True, help="Pairs in one forward.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(source: str, **options: Any) -> int:
    """Give each prompt of FILE.jsonl one option: the exact best assignment by the guided model's log-likelihoods.

    \b
    A line is {"prompt": ..., "negative": ..., "id": ...}; "{option}" needs no place in it, the option follows the prompt.
    What comes out has a line for each, in order: the option, its log-likelihoods, and what the capacities cost it.
    """
    names = _options(options)
    capacity = _capacity(options, names)
    texts = {name: f" {name}" for name in names} | dict(text.split("=", 1) for text in options["text"])
    options["negative"] = read_text(options["negative"], options["negative_file"], name="negative")
    lines = _lines(source)
    negatives = [line.negative if line.negative is not None else options["negative"] for line in lines]
    guide = guide_from(options, negative=next((one for one in negatives if one is not None), None))
    with plain_warnings(), needs("plans"):
        from counterpoint.assignment import assign

        done = assign(
            open_model(options),
            [line.prompt for line in lines],
            texts,
            negative=negatives if any(one is not None for one in negatives) else None,
            guide=guide,
            capacity=capacity,
            store=options["store"],
            batch_size=options["batch_size"],
            on_progress=None if options["quiet"] else _shown,
        )
    answers = []
    for at, line in enumerate(lines):
        logprobs = {name: _number(value) for name, value in zip(names, done.logprobs[at])}
        answer = {"option": done.chosen[at], "alone": done.alone[at], "loss": done.loss[at], "logprobs": logprobs}
        answers.append(json.dumps(({} if line.id is None else {"id": line.id}) | answer, ensure_ascii=False))
    text = "".join(answer + "\n" for answer in answers)
    if options["output"] is None:
        sys.stdout.write(text)
    else:
        _write(options["output"], text)
    if not options["quiet"]:
        print(_summary(done), file=sys.stderr)
    return 0


def _options(options: Options) -> list[str]:
    names = [name for name in next(csv.reader([options["options"]], skipinitialspace=True), ()) if name]
    if not names:
        raise UsageError("--options names none; write --options A,B")
    if len(set(names)) < len(names):
        raise UsageError(f"--options has {max(names, key=names.count)!r} twice; give each once")
    for text in options["text"]:
        if text.partition("=")[0] not in names:
            raise UsageError(f"--text is for {text.partition('=')[0]!r}, which is none of --options")
    return names


def _capacity(options: Options, names: list[str]) -> dict[str, tuple[int | None, int | None]]:
    found: dict[str, tuple[int | None, int | None]] = {}
    for pair in options["capacity"]:
        name, _, count = pair.rpartition("=")
        least, dots, most = count.rpartition("..")
        try:
            bounds = (int(least) if least else None, int(most) if most or not dots else None)
        except ValueError:
            raise UsageError(
                f"--capacity is {pair!r}; write NAME=COUNT or NAME=LEAST..MOST, as --capacity A=15"
            ) from None
        if name not in names:
            raise UsageError(
                f"--capacity is for {name!r}, which is none of --options ({', '.join(names)[:200]}); give --capacity once for each"
            )
        if name in found:
            raise UsageError(f"--capacity is given twice for {name!r}; keep one")
        found[name] = bounds
    return found


def _lines(source: str) -> list[Any]:
    from counterpoint.batch.files import open_lines
    from counterpoint.batch.lines import read_lines

    found = []
    with open_lines(source) as texts:
        for number, line in read_lines(texts):
            if isinstance(line, UsageError):
                raise PromptError(f"line {number}: {line}")
            for name, value in (("branches", line.branches), ("guide", line.guide), *(line.options or {}).items()):
                if value is not None:
                    raise PromptError(f"line {number} has {name!r}, which an assignment has no use for; leave it out")
            found.append(line)
    if not found:
        raise PromptError(f"{source!r} holds no line; give one JSON object a line, with a prompt")
    return found


def _number(value: float) -> float | None:
    return value if value != float("-inf") else None  # JSON has no infinity


def _write(path: str, text: str) -> None:
    from pathlib import Path

    part = Path(f"{path}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _shown(done: int, total: int) -> None:
    is_terminal = sys.stderr.isatty()
    if is_terminal or done == total:
        print(
            f"\r{done} of {total} scored\x1b[K" if is_terminal else f"{done} of {total} scored",
            end="" if is_terminal else "\n",
            file=sys.stderr,
        )
        sys.stderr.flush()


def _summary(done: Any) -> str:
    counts = ", ".join(
        f"{name} {count}" + (f" (one more place: {done.prices[name]:.2f} nats)" if done.prices[name] > 0 else "")
        for name, count in done.counts.items()
    )
    runner_up = done.best.runner_up_loss
    ending = "no other assignment is left" if runner_up is None else f"the next best one is {runner_up:.3f} nats worse"
    start = "\n" if sys.stderr.isatty() else ""
    return f"{start}{counts}; {done.best.loss:.2f} nats below no capacities; {ending}"
