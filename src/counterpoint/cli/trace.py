"""counterpoint trace"""

from __future__ import annotations

from typing import Any

import click

from counterpoint.cli.options import (
    NUMBER,
    SAMPLING_NAMES,
    guide_from,
    guide_options,
    model_options,
    open_model,
    plain_warnings,
    read_text,
    sampling_options,
)
from counterpoint.errors import UsageError

_SHOWING = ("saved", "html", "jsonl", "as_json", "artefact_rank", "artefact_prob")


@click.command("trace")
@click.argument("prompt", required=False)
@guide_options
@sampling_options
@model_options
@click.option("--prompt-file", default=None, help="Read the prompt from a file.")
@click.option("--read", "saved", default=None, help="Show a trace from a file instead of making one.")
@click.option("--html", default=None, help="Write a page to this file.")
@click.option("--jsonl", default=None, help="Write the trace to this file, as JSON Lines.")
@click.option("--json", "as_json", is_flag=True, help="Print the trace as JSON Lines.")
@click.option("--alternatives", type=int, default=5, show_default=True, help="Best tokens to keep of each branch.")
@click.option("--artefact-rank", type=int, default=None, help="An artefact ranks behind this many tokens (50), and")
@click.option("--artefact-prob", type=NUMBER, default=None, help="is less probable than this (0.001).")
@click.pass_context
def command(context: click.Context, prompt: str | None, **options: Any) -> None:
    """Show why each token was chosen. PROMPT is a text, or - for standard input.

    \b
    counterpoint trace "PROMPT" --negative "NEGATIVE" --scale 5 --temperature 0 --html out.html
    """
    given = prompt is not None or options["prompt_file"] is not None
    if given == (options["saved"] is not None):
        raise UsageError("give a PROMPT (a text, or - for standard input) or --prompt-file, or --read a trace")
    if not given:
        _refuse_generation(context)
    guide_from(options)  # a mistake in the guide is told before a model is loaded
    with plain_warnings():
        traced = _record(prompt, options) if given else _read(options)
    from counterpoint import trace
    from counterpoint.report import TraceReport

    report = TraceReport(traced)
    if options["jsonl"] is not None:
        trace.write(traced, options["jsonl"])
    if options["html"] is not None:
        report.save(options["html"])
    if options["as_json"]:
        for line in trace.lines(traced):
            print(line)
        return
    from rich.console import Console

    # Into a file or a pipe, as wide as the table needs.
    console = Console()
    Console(width=None if console.is_terminal else 160, highlight=False).print(report)


def _refuse_generation(context: click.Context) -> None:
    """A saved trace is what it is: an option that would make another one is a mistake."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source is click.core.ParameterSource.COMMANDLINE and parameter.name not in _SHOWING:
            raise UsageError(f"{parameter.opts[0]} has no effect on a trace from a file; leave out it or --read")


def _record(prompt: str | None, options: dict[str, Any]) -> Any:
    text = read_text(prompt, options["prompt_file"], name="prompt")
    negative = read_text(options["negative"], options["negative_file"], name="negative")
    guide = guide_from(options, negative=negative)
    limits = _limits(options)
    model = open_model(options)
    from counterpoint.trace import record

    return record(
        model,
        text,
        negative=negative,
        guide=guide,
        num_alternatives=options["alternatives"],
        limits=limits,
        **{name: options[name] for name in SAMPLING_NAMES},
    )


def _read(options: dict[str, Any]) -> Any:
    from counterpoint.trace import read

    traced = read(options["saved"])
    asked = options["artefact_rank"] is not None or options["artefact_prob"] is not None
    return traced.with_limits(_limits(options)) if asked else traced


def _limits(options: dict[str, Any]) -> Any:
    from counterpoint.trace import Limits

    given = {"rank": options["artefact_rank"], "prob": options["artefact_prob"]}
    return Limits(**{name: value for name, value in given.items() if value is not None})
