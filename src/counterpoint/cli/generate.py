"""counterpoint generate"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from counterpoint.cli.contexts import check_contexts, context_options, read_contexts
from counterpoint.cli.options import (
    SAMPLING_NAMES,
    draft_options,
    drafting,
    guide_from,
    guide_options,
    model_options,
    open_model,
    plain_warnings,
    read_text,
    sampling_options,
)
from counterpoint.errors import UsageError


@click.command("generate")
@click.argument("prompt", required=False)
@guide_options
@context_options
@sampling_options
@model_options
@draft_options
@click.option("-n", "num_samples", type=int, default=1, help="Samples of the prompt.")
@click.option("--logprobs", type=int, default=None, help="Report log-probabilities and this many best tokens.")
@click.option("--prompt-file", default=None, help="Read the prompt from a file.")
@click.option("--jsonl", "jsonl", default=None, help="Many prompts: a JSON Lines file (- is standard input).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each completion.")
@click.option("--stream", "as_stream", is_flag=True, help="Print text while it is written.")
def command(
    prompt: str | None, prompt_file: str | None, jsonl: str | None, as_json: bool, as_stream: bool, **options: Any
) -> int:
    """Continue PROMPT under guidance. PROMPT is a text, or - for standard input.

    \b
    counterpoint generate "PROMPT" --negative "NEGATIVE" --scale 3 --space prob --max-tokens 60 --seed 0
    """
    if (prompt is None and prompt_file is None) == (jsonl is None):
        raise UsageError("give a PROMPT (a text, or - for standard input), --prompt-file, or --jsonl FILE for many")
    if as_stream and (as_json or jsonl or options["num_samples"] != 1):
        raise UsageError("--stream shows one text; leave out --json, --jsonl and -n")
    guide_from(options)  # a mistake in the guide or the branches is told before a model is loaded
    check_contexts(options, many=jsonl is not None)
    with plain_warnings():
        if jsonl is not None:
            from counterpoint.cli.many import run_many

            return run_many(jsonl, options)
        text = read_text(prompt, prompt_file, name="prompt")
        return _run_one(text, options, as_json=as_json, as_stream=as_stream)


def _run_one(text: str, options: dict[str, Any], *, as_json: bool, as_stream: bool) -> int:
    model, prompt, negative, branches = read_contexts(open_model(options), text, options)
    guide = guide_from(options, negative=negative)
    from counterpoint.contexts import show
    from counterpoint.engine import describe, generate, stream

    arguments = {name: options[name] for name in SAMPLING_NAMES} | {"logprobs": options["logprobs"]}
    arguments |= {"negative": negative, "branches": branches, "guide": guide, **drafting(options)}
    shown = None
    if options["show_branches"]:
        shown = show(model, prompt, negative=negative, branches=branches, guide=guide)
        if not as_json:
            print(shown, file=sys.stderr)
    if as_stream:
        for piece in stream(model, prompt, **arguments):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        return 0
    done = generate(model, prompt, n=options["num_samples"], **arguments)
    for completion in done if isinstance(done, list) else [done]:
        record = describe(completion) | (shown.to_dict() if shown is not None else {})
        print(json.dumps(record, ensure_ascii=False) if as_json else completion.text)
    return 0
