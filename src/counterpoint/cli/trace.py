"""counterpoint trace"""

from __future__ import annotations

from typing import Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.contexts import CONTEXTS, check_prompt, read_contexts
from counterpoint.cli.kinds import FILE, OUTPUT, SHARE, Count
from counterpoint.cli.options import (
    GUIDE,
    MODEL,
    PRESETS,
    SAMPLING,
    VECTOR,
    guide_from,
    plain_warnings,
    sampling_from,
    token_bar,
)
from counterpoint.errors import UsageError

_SHOWING = ("saved", "html", "jsonl", "as_json", "artefact_rank", "artefact_prob", "log")


def _check(options: Options) -> None:
    if options["saved"] is None:
        check_prompt(options)
    elif options["prompt"] is not None or options["prompt_file"] is not None:
        raise UsageError("--read shows a trace that is there, and a prompt is given; keep one of them")
    else:
        _refuse_generation(click.get_current_context())


@click.command("trace", cls=Command, groups=(GUIDE, CONTEXTS, SAMPLING, MODEL, VECTOR, PRESETS), check=_check)
@click.argument("prompt", required=False)
@click.option("--html", type=OUTPUT, default=None, help="Write a page to this file.")
@click.option("--jsonl", type=OUTPUT, default=None, help="Write the trace to this file, as JSON Lines.")
@click.option("--json", "as_json", is_flag=True, help="Print the trace as JSON Lines.")
@click.option("--read", "saved", type=FILE, default=None, help="Show a trace from a file instead of making one.")
@click.option("--unguided", is_flag=True, help="Also write the text that there would be without guidance.")
@click.option("--alternatives", type=Count(1), default=5, show_default=True, help="Best tokens to keep of each branch.")
@click.option(
    "--artefact-rank", type=Count(1), default=None, help="An artefact ranks behind this many tokens (50), and"
)
@click.option("--artefact-prob", type=SHARE, default=None, help="is less probable than this (0.001).")
def command(**options: Any) -> None:
    """Show why each token was chosen. PROMPT is a text, or - for standard input.

    \b
    counterpoint trace "PROMPT" --negative "NEGATIVE" --scale 5 --temperature 0 --html out.html
    """
    with plain_warnings():
        traced, unguided = _record(options) if options["saved"] is None else (_read(options), None)
    from counterpoint import trace
    from counterpoint.report import TraceReport

    report = TraceReport(traced, unguided)
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
        source = context.get_parameter_source(parameter.name or "")
        if source is click.core.ParameterSource.COMMANDLINE and parameter.name not in _SHOWING:
            raise UsageError(f"{parameter.opts[0]} has no effect on a trace from a file; leave out it or --read")


def _record(options: Options) -> tuple[Any, Any]:
    limits = _limits(options)
    read = read_contexts(options)
    guide = guide_from(options, negative=read.negative)
    from counterpoint.trace import record, record_unguided

    given = {**read.given, "guide": guide, **sampling_from(options), "limits": limits}
    with token_bar("tracing", options["max_tokens"] * (1 + options["unguided"])) as advance:
        traced = record(read.model, read.prompt, num_alternatives=options["alternatives"], on_progress=advance, **given)
        unguided = (
            record_unguided(read.model, read.prompt, on_progress=advance, **given) if options["unguided"] else None
        )
    return traced, unguided


def _read(options: Options) -> Any:
    from counterpoint.trace import read

    traced = read(options["saved"])
    asked = options["artefact_rank"] is not None or options["artefact_prob"] is not None
    return traced.with_limits(_limits(options)) if asked else traced


def _limits(options: Options) -> Any:
    from counterpoint.trace import ArtefactLimits

    given = {"rank": options["artefact_rank"], "prob": options["artefact_prob"]}
    return ArtefactLimits(**{name: value for name, value in given.items() if value is not None})
