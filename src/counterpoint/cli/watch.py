"""counterpoint watch"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from counterpoint.cli.command import Command, CommandGroup, Options
from counterpoint.cli.kinds import FILE, NUMBER, OUTPUT, Count
from counterpoint.cli.options import GUIDE, guide_from, model_group, open_model, plain_warnings
from counterpoint.errors import PromptError, UsageError

if TYPE_CHECKING:
    from counterpoint.models.model import Model

METHODS = ("nearest", "forest")
FEATURES = ("numbers", "hidden")


def _check(options: Options) -> None:
    if options["method"] not in METHODS:
        raise UsageError(f"--method is {options['method']!r}; use {' or '.join(METHODS)}")
    if options["features"] not in FEATURES:
        raise UsageError(f"--features is {options['features']!r}; use {' or '.join(FEATURES)}")
    if options["negative_system"] is not None and options["system"] is None:
        raise UsageError("--negative-system needs --system TEXT, the system message that the texts were written under")


@click.command("fit", cls=Command, groups=(GUIDE, model_group("smollm2")), check=_check)
@click.argument("good", metavar="GOOD", type=FILE)
@click.option("--out", type=OUTPUT, required=True, help="The file to write, JSON.")
@click.option("--negative", default=None, metavar="TEXT", help="For lines that have none.")
@click.option("--system", default=None, metavar="TEXT", help="Prompts are user turns under this system message.")
@click.option(
    "--negative-system", default=None, metavar="TEXT", help="Another system message, or 'none', or 'default'."
)
@click.option("--window", type=Count(4), default=16, show_default=True, help="Tokens that an alarm is about.")
@click.option("--method", default="nearest", show_default=True, metavar="[nearest|forest]", help="Distance to good windows, or an isolation forest.")  # fmt: skip
@click.option("--false-alarms", type=NUMBER, default=0.05, show_default=True, help="Share of good texts that may raise one.")  # fmt: skip
@click.option("--echoes/--no-echoes", default=True, help="Whether a text that repeats its numbers is told by that.  [default: echoes]")  # fmt: skip
@click.option("--features", default="numbers", show_default=True, metavar="[numbers|hidden]", help="Of each step: its numbers, or the states it predicts from (--no-compile).")  # fmt: skip
def fit(good: str, out: str, **options: Any) -> None:
    """Make a watch from GOOD, a JSON Lines file of good texts, and write it to a file. 8 texts are enough.

    \b
    {"prompt": TEXT, "text": TEXT, "negative": TEXT}      negative may be left out
    """
    from counterpoint.watch import Watch

    with plain_warnings():
        guide = guide_from(options, negative=options["negative"] or options["negative_system"])
        lines = _lines(good)
        model = open_model(options)
        texts = [(_prompt(model, line, options), line["text"]) for line in lines]
        given = {name: options[name] for name in ("window", "method", "features", "false_alarms", "echoes")}
        watch = Watch.fit(model, texts, guide=guide, **given)
    watch.save(out)
    print(f"a watch of {len(watch.texts)} texts, {watch.window} tokens a window, in {out}", file=sys.stderr)


def _lines(path: str) -> list[dict[str, str]]:
    lines = []
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                record = json.loads(text.decode())
            except ValueError as error:
                raise PromptError(f"line {number} is not valid JSON: {error}") from None
            if not isinstance(record, dict) or not {"prompt", "text"} <= set(record) <= {"prompt", "text", "negative"}:
                raise UsageError(
                    f'line {number} is {text.decode().strip()[:40]!r}; write {{"prompt": TEXT, "text": TEXT}}'
                )
            for name, value in record.items():
                if not isinstance(value, str) or not value:
                    raise UsageError(f"line {number} has {value!r:.40} as its {name}; give a text that is not empty")
            lines.append(record)
    return lines


def _prompt(model: Model, line: dict[str, str], options: Options) -> Any:
    """The prompt of a line with its branches, as `generate` has them."""
    from counterpoint.contexts import BranchedPrompt, System, chat, chat_prompt
    from counterpoint.guide import Branch

    negative = line.get("negative", options["negative"])
    if options["system"] is None:
        return line["prompt"] if negative is None else BranchedPrompt(line["prompt"], (Branch(negative),))
    turns = [{"role": "system", "content": options["system"]}, {"role": "user", "content": line["prompt"]}]
    named = {system.value: system for system in System}
    against = negative if options["negative_system"] is None else options["negative_system"]
    if against is None:
        return chat_prompt(model, turns)
    return chat(model, turns, negative=named.get(against, against))


@click.command("show", cls=Command)
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: str, as_json: bool) -> None:
    """What is in a watch's file."""
    from counterpoint.watch import Watch

    watch = Watch.load(file)
    facts = {name: value for name, value in watch.to_dict().items() if name not in ("texts", "format", "version")}
    facts |= {"texts": len(watch.texts), "tokens": sum(map(len, watch.texts))}
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")


COMMANDS = {"fit": "a watch from good texts", "show": "what is in a watch's file"}


@click.group("watch", cls=CommandGroup, texts=COMMANDS, find={"fit": fit, "show": show}.__getitem__)
def command() -> None:
    """Watches: alarms while a text is written, from how the good ones look."""
