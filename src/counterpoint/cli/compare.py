"""counterpoint compare"""

from __future__ import annotations

import json
from typing import Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.contexts import CONTEXTS, check_prompt, has_contexts, read_contexts
from counterpoint.cli.kinds import NUMBERS, OUTPUT, SHARE, WORDS, Count
from counterpoint.cli.options import MODEL, PRESETS, SAMPLING, VECTOR, plain_warnings, sampling_from, token_bar
from counterpoint.errors import GuideError, UsageError
from counterpoint.guide import Guide

MAX_CELLS = 256


def _check(options: Options) -> None:
    check_prompt(options)
    if not has_contexts(options):
        raise UsageError(
            "give --negative, or another of the options of what the prompt is read against; without one every scale is "
            "the same text"
        )
    count = 1
    for name in ("scales", "spaces", "plausibilities"):
        values = options[name]
        if not values or len(set(values)) < len(values):
            raise GuideError(f"--{name} is {','.join(map(str, values)) or 'empty'}; give at least one, and none twice")
        count *= len(values)
    for scale in options["scales"]:
        for space in options["spaces"]:
            for plausibility in options["plausibilities"]:
                Guide(scale=scale, space=space, plausibility=plausibility)
    if count > MAX_CELLS:
        raise GuideError(f"the grid has {count} cells; give at most {MAX_CELLS}")


@click.command(
    "compare",
    cls=Command,
    groups=(CONTEXTS, SAMPLING, MODEL, VECTOR, PRESETS),
    check=_check,
    unused={"scale": "--scales", "space": "--spaces", "plausibility": "--plausibilities"},
)
@click.argument("prompt", required=False)
@click.option("--scales", type=NUMBERS, default="1,1.5,3,5", show_default=True, help="Guidance scales, with commas.")
@click.option("--spaces", type=WORDS, default="log,prob", show_default=True, help="Spaces, with commas.")
@click.option(
    "--plausibilities", type=NUMBERS, default="0", show_default=True, help="Plausibilities, with commas; 0 is off."
)
@click.option("-n", "num_samples", type=Count(1), default=1, show_default=True, help="Samples of each cell.")
@click.option("--html", type=OUTPUT, default=None, help="Write a page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
@click.option(
    "--artefact-rank", type=Count(1), default=50, show_default=True, help="An artefact ranks behind this, and"
)
@click.option("--artefact-prob", type=SHARE, default=0.001, show_default=True, help="is less probable than this.")
def command(**options: Any) -> None:
    """Continue PROMPT under a grid of guides and show the texts beside each other.

    \b
    counterpoint compare "PROMPT" --negative "NEGATIVE" --scales 1,1.5,3,5 --spaces log,prob --temperature 0
    """
    grid = {name: options[name] for name in ("scales", "spaces", "plausibilities")}
    with plain_warnings():
        read = read_contexts(options)
        from counterpoint.report import compare
        from counterpoint.trace import ArtefactLimits

        limits = ArtefactLimits(options["artefact_rank"], options["artefact_prob"])
        arguments = {**sampling_from(options), **read.given, "n": options["num_samples"]}
        cells = len(grid["scales"]) * len(grid["spaces"]) * len(grid["plausibilities"])
        with token_bar("comparing", cells * options["num_samples"] * options["max_tokens"]) as advance:
            compared = compare(read.model, read.prompt, limits=limits, on_progress=advance, **grid, **arguments)
    if options["html"] is not None:
        compared.save(options["html"])
    if options["as_json"]:
        print(json.dumps(compared.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    Console(width=None if console.is_terminal else 160, highlight=False).print(compared)
