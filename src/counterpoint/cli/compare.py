"""counterpoint compare"""

from __future__ import annotations

import json
from typing import Any

import click

from counterpoint.cli.options import (
    NUMBER,
    SAMPLING_NAMES,
    model_options,
    open_model,
    plain_warnings,
    read_text,
    sampling_options,
)
from counterpoint.errors import UsageError


@click.command("compare")
@click.argument("prompt", required=False)
@click.option("--negative", default=None, help="What to move away from.")
@click.option("--negative-file", default=None, help="Read the negative from a file.")
@click.option("--scales", default="1,1.5,3,5", show_default=True, help="Guidance scales, comma-separated.")
@click.option("--spaces", default="log,prob", show_default=True, help="Spaces, comma-separated.")
@click.option("--plausibilities", default="0", show_default=True, help="Plausibilities, comma-separated; 0 is off.")
@sampling_options
@model_options
@click.option("-n", "num_samples", type=int, default=1, help="Samples of each cell; the numbers are over all of them.")
@click.option("--prompt-file", default=None, help="Read the prompt from a file.")
@click.option("--html", default=None, help="Write a page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
@click.option("--artefact-rank", type=int, default=50, show_default=True, help="An artefact ranks behind this, and")
@click.option("--artefact-prob", type=NUMBER, default=0.001, show_default=True, help="is less probable than this.")
def command(prompt: str | None, prompt_file: str | None, **options: Any) -> None:
    """Continue PROMPT under a grid of guides and show the texts beside each other.

    \b
    counterpoint compare "PROMPT" --negative "NEGATIVE" --scales 1,1.5,3,5 --spaces log,prob --temperature 0
    """
    if prompt is None and prompt_file is None:
        raise UsageError("give a PROMPT (a text, or - for standard input) or --prompt-file")
    grid = {
        "scales": [_number("scales", part) for part in _parts(options["scales"])],
        "spaces": _parts(options["spaces"]),
        "plausibilities": [_number("plausibilities", part) for part in _parts(options["plausibilities"])],
    }
    text = read_text(prompt, prompt_file, name="prompt")
    negative = read_text(options["negative"], options["negative_file"], name="negative")
    if negative is None:
        raise UsageError("give --negative or --negative-file; without one every scale is the same text")
    from counterpoint.report.compare import compare
    from counterpoint.report.grid import axes
    from counterpoint.trace import Limits

    axes(**grid)  # a mistake in the grid is told before a model is loaded
    limits = Limits(options["artefact_rank"], options["artefact_prob"])
    with plain_warnings():
        arguments = {name: options[name] for name in SAMPLING_NAMES} | {"n": options["num_samples"]}
        compared = compare(open_model(options), text, negative=negative, limits=limits, **grid, **arguments)
    if options["html"] is not None:
        compared.save(options["html"])
    if options["as_json"]:
        print(json.dumps(compared.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    Console(width=None if console.is_terminal else 160, highlight=False).print(compared)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} has {text!r}; use numbers with commas between them") from None
