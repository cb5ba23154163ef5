"""counterpoint bench"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.contexts import CONTEXTS, has_contexts, read_contexts
from counterpoint.cli.kinds import OUTPUT, Count
from counterpoint.cli.options import MODEL, open_model
from counterpoint.errors import UsageError

SHAPES = ("gpt2-124m", "smollm2-135m", "llama-0.5b", "llama-8b")  # of bench/shapes.py, which imports torch


def _check(options: Options) -> None:
    if options["prompt"] is None and options["prompt_file"] is None:
        if has_contexts(options):
            raise UsageError("there are contexts and no PROMPT; give one, or leave them out for random tokens")
    elif not has_contexts(options):
        raise UsageError("there is a PROMPT and nothing that it is read against; give --negative, say")


@click.command("bench", cls=Command, groups=(CONTEXTS, MODEL), check=_check)
@click.argument("prompt", required=False)
@click.option("--shape", type=click.Choice(SHAPES), help="Random weights in a known configuration, no --model.")
@click.option(
    "--branches", type=Count(2), default=2, show_default=True, help="Contexts of a request, the prompt included."
)
@click.option("--batch", type=Count(1), default=1, show_default=True, help="Requests at once.")
@click.option("--context-tokens", type=Count(1), default=48, show_default=True, help="Tokens of each context.")
@click.option("--max-tokens", type=Count(3), default=32, show_default=True, help="Tokens to write.")
@click.option("--draft-tokens", type=Count(0), default=0, show_default=True, help="Also with this many guesses a step.")
@click.option("--rounds", type=Count(1), default=5, show_default=True, help="Paired rounds; medians are reported.")
@click.option("--svg", type=OUTPUT, default=None, help="Write a chart to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool, svg: str | None, shape: str | None, **options: Any) -> None:
    """Measure guided generation here against transformers' generate, in pairs, on random tokens or on PROMPT."""
    from counterpoint.bench import measure
    from counterpoint.bench.machine import describe_machine
    from counterpoint.bench.shapes import random_model
    from counterpoint.bench.table import as_json as to_json
    from counterpoint.bench.table import as_markdown, as_svg
    from counterpoint.models.loading import usable_device

    task = None
    if shape is not None:
        if options["weights"] not in (None, "int8"):
            raise UsageError(f"weights is {options['weights']!r}, and random weights are in no file; use int8")
        device = usable_device(options["device"] or (options["weights"] and "cpu"))  # rounded weights are the CPU's
        model = random_model(
            shape,
            options["dtype"] or "float32",
            compile=options["compile"],
            weights=options["weights"],
            device=device,
        )
    elif options["prompt"] is not None or options["prompt_file"] is not None:
        model, task = _task(options)
    else:
        model = open_model(options)
    if task is None:
        task = measure.random_task(
            model,
            num_branches=options["branches"],
            context_len=options["context_tokens"],
            num_tokens=options["max_tokens"],
        )
    rounds = options["rounds"]
    lines = measure.one_request(model, task, rounds=rounds)
    if options["batch"] > 1:
        lines += measure.many_requests(model, [task] * options["batch"], rounds=rounds)
    if options["draft_tokens"]:
        lines += measure.drafted(model, task, draft_tokens=options["draft_tokens"], rounds=rounds)
    lines += measure.branch_bytes(model, task)
    machine = {"model": model.name, "dtype": str(model.dtype).removeprefix("torch."), **describe_machine(model.device)}
    if svg is not None:
        with open(svg, "w") as file:
            file.write(as_svg([(x.name, x.value) for x in lines if x.unit == "ms a token"], unit="ms a token"))
    if as_json:
        print(json.dumps({"machine": machine, "lines": to_json(lines)}))
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()), file=sys.stderr)
    print(as_markdown(lines))


def _task(options: Options) -> tuple[Any, Any]:
    """The contexts of the options as a task. Transformers' `generate` has texts beside the prompt only."""
    from counterpoint.bench.ways import Task
    from counterpoint.contexts import read_request

    read = read_contexts(options)
    prompt_ids, branches, _ = read_request(read.model, read.prompt, **read.given)
    if any(branch.is_suffix or branch.model is not None for branch in branches):
        raise UsageError("transformers has no suffix and no other model to measure against; give --negative, say")
    return read.model, Task(prompt_ids, tuple(branch.ids for branch in branches), num_tokens=options["max_tokens"])
