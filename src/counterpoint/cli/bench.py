"""counterpoint bench"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from counterpoint.cli.options import model_options, open_model
from counterpoint.errors import UsageError


@click.command("bench")
@model_options
@click.option("--gpt2-124m", "is_gpt2", is_flag=True, help="Random weights in GPT-2's 124M configuration, no --model.")
@click.option("--branches", type=int, default=2, show_default=True, help="Contexts of a request, the prompt included.")
@click.option("--batch", type=int, default=1, show_default=True, help="Requests at once.")
@click.option("--context-tokens", type=int, default=48, show_default=True, help="Tokens of each context.")
@click.option("--max-tokens", type=int, default=32, show_default=True, help="Tokens to write.")
@click.option("--draft-tokens", type=int, default=0, show_default=True, help="Also with this many guesses a step.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Paired rounds; medians are reported.")
@click.option("--svg", default=None, help="Write a chart to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool, svg: str | None, is_gpt2: bool, **options: Any) -> None:
    """Measure guided generation here against transformers' generate, in pairs, on random prompts."""
    least = {"branches": 2, "batch": 1, "context_tokens": 1, "max_tokens": 3, "draft_tokens": 0, "rounds": 1}
    for name, value in least.items():
        if options[name] < value:
            raise UsageError(f"--{name.replace('_', '-')} is {options[name]}; use {value} or more")
    from counterpoint.bench import measure
    from counterpoint.bench.machine import describe_machine
    from counterpoint.bench.table import as_json as to_json
    from counterpoint.bench.table import as_markdown, as_svg

    if is_gpt2:
        model = measure.gpt2_124m(options["dtype"] or "float32", compile=options["compile"])
    else:
        model = open_model(options)
    task = measure.random_task(
        model, num_branches=options["branches"], context_len=options["context_tokens"], num_tokens=options["max_tokens"]
    )
    rounds = options["rounds"]
    lines = measure.one_request(model, task, rounds=rounds)
    if options["batch"] > 1:
        lines += measure.many_requests(model, [task] * options["batch"], rounds=rounds)
    if options["draft_tokens"]:
        lines += measure.drafted(model, task, draft_tokens=options["draft_tokens"], rounds=rounds)
    lines += measure.branch_bytes(model, task)
    machine = {"model": model.name, "dtype": str(model.dtype).removeprefix("torch."), **describe_machine()}
    if svg is not None:
        with open(svg, "w") as file:
            file.write(as_svg([(x.name, x.value) for x in lines if x.unit == "ms a token"], unit="ms a token"))
    if as_json:
        print(json.dumps({"machine": machine, "lines": to_json(lines)}))
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()), file=sys.stderr)
    print(as_markdown(lines))
