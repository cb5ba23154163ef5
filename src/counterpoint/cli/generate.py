"""counterpoint generate"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.constraints import FORM, constraint_from, warn_of_incomplete
from counterpoint.cli.contexts import CONTEXTS, WAYS, check_prompt, read_contexts
from counterpoint.cli.kinds import Count, Input
from counterpoint.cli.options import (
    DRAFTING,
    GUIDE,
    MODEL,
    PRESETS,
    SAMPLING,
    VECTOR,
    drafting,
    guide_from,
    plain_warnings,
    sampling_from,
)
from counterpoint.cli.watching import WATCH, tell_alarms, watching
from counterpoint.errors import UsageError


def _check(options: Options) -> None:
    if options["jsonl"] is None:
        check_prompt(options)
    elif options["prompt"] is not None or options["prompt_file"] is not None or options["no_prompt"]:
        raise UsageError("--jsonl holds the prompts and one is given too; keep one of them")
    else:
        for name in ("branch", "chat", "system", "picture", "show_branches", "with_model", *WAYS[2:]):
            if options[name] not in (None, False, ()):
                raise UsageError(
                    f"--{name.replace('_', '-')} is for one PROMPT; write branches into the lines of --jsonl"
                )
    if options["as_stream"] and (options["as_json"] or options["jsonl"] or options["num_samples"] != 1):
        raise UsageError("--stream shows one text; leave out --json, --jsonl and -n")
    if options["logprobs"] is not None and not (options["as_json"] or options["jsonl"]):
        raise UsageError("--logprobs is part of --json and --jsonl only; add --json, or use: counterpoint trace")


@click.command(
    "generate",
    cls=Command,
    groups=(GUIDE, CONTEXTS, SAMPLING, FORM, WATCH, MODEL, VECTOR, DRAFTING, PRESETS),
    check=_check,
)
@click.argument("prompt", required=False)
@click.option("-n", "num_samples", type=Count(1), default=1, show_default=True, help="Samples of the prompt.")
@click.option(
    "--stream/--no-stream", "as_stream", default=None, help="Print text while it is written; on a terminal it is."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each completion.")
@click.option(
    "--logprobs", type=Count(0), default=None, help="With --json: log-probabilities, and so many best tokens."
)
@click.option("--show-branches", is_flag=True, help="Print what each branch reads and where they differ.")
@click.option(
    "--jsonl", type=Input(dash=True), default=None, help="Many prompts: a JSON Lines file (- is standard input)."
)
def command(**options: Any) -> int:
    """Continue PROMPT under guidance. PROMPT is a text, or - for standard input.

    \b
    counterpoint generate "PROMPT" --negative "NEGATIVE" --scale 3 --space prob --max-tokens 60 --seed 0
    """
    with plain_warnings():
        if options["jsonl"] is not None:
            from counterpoint.cli.many import run_many

            return run_many(options["jsonl"], options)
        return _run_one(options)


def _run_one(options: Options) -> int:
    as_json, as_stream = options["as_json"], options["as_stream"]
    if as_stream is None:
        as_stream = sys.stdout.isatty() and not as_json and options["num_samples"] == 1
    read = read_contexts(options)
    guide = guide_from(options, negative=read.negative)
    from counterpoint.contexts import show
    from counterpoint.engine import describe, generate, stream

    shown = None
    if options["show_branches"]:
        shown = show(read.model, read.prompt, guide=guide, **read.given)
        if not as_json:
            print(shown, file=sys.stderr)
    arguments = {**sampling_from(options), **read.given, "guide": guide, "logprobs": options["logprobs"]}
    arguments |= {"constraint": constraint_from(options), "loop": options["loop"], **drafting(options)}
    arguments |= watching(options)
    if as_stream:
        done = None
        for piece in stream(read.model, read.prompt, **arguments):
            sys.stdout.write(piece)
            sys.stdout.flush()
            done = piece.completion
        print()
        _tell_end(read.model.name, [done])
        tell_alarms([done])
        warn_of_incomplete([done])
        return 0
    made = generate(read.model, read.prompt, n=options["num_samples"], **arguments)
    completions = made if isinstance(made, list) else [made]
    for completion in completions:
        record = describe(completion) | (shown.to_dict() if shown is not None else {})
        print(json.dumps(record, ensure_ascii=False) if as_json else completion.text)
    _tell_end(read.model.name, completions)
    if not as_json:
        tell_alarms(completions)
        warn_of_incomplete(completions)
    return 0


def _tell_end(model: str, completions: list[Any]) -> None:
    for done in completions:
        if done is not None and done.finish_reason == "context":
            number = done.usage.completion_tokens
            print(
                f"counterpoint: the text ends after {number} tokens, where the context of {model} is full",
                file=sys.stderr,
            )
            return
