"""counterpoint eval"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.kinds import FILE, SHARE, Count, Input
from counterpoint.cli.options import MODEL, needs, plain_warnings, read_text
from counterpoint.errors import UsageError
from counterpoint.guide import Guide


class _Eval(Command):
    """`eval where` is a command of its own, with its own options."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        if args[:1] == ["where"]:
            from counterpoint.cli.where import command as where

            return where.make_context(f"{info_name} where", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


def _check(options: Options) -> None:
    _check_effects(options["tasks"], options)
    _guides(options)
    if not options["tasks"] and options["lambada"] is None:
        raise UsageError("there is no task; name tasks of lm-evaluation-harness, task files, or --lambada FILE")


def _check_effects(tasks: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse an option that nothing would read."""
    for name, needed, is_there in (
        ("sample", "--lambada FILE", options["lambada"] is not None),
        ("spaces", "--scales", options["scales"] is not None),
        ("include", "a task", bool(tasks)),
        ("metric", "--until", options["until"] is not None),
    ):
        if options[name] is not None and not is_there:
            raise UsageError(f"--{name} {options[name]} does nothing without {needed}; give both or neither")


@click.command("eval", cls=_Eval, groups=(MODEL,), check=_check)
@click.argument("tasks", nargs=-1)
@click.option(
    "--guide", "guides", multiple=True, help='A guide, as "scale=1.5,space=prob"; may be given several times.'
)
@click.option("--scales", default=None, help="Comma-separated scales; with --spaces, every pair of them is a guide.")
@click.option("--spaces", default=None, help="Comma-separated: log, prob; log if left out.")
@click.option("--branch", default=None, help="last, empty or no-system; the default suits the task.")
@click.option("--negative", default=None, help="A text for the further branch instead.")
@click.option("--negative-file", type=FILE, default=None, help="Read the negative from a file.")
@click.option("--lambada", type=FILE, default=None, help="Also LAMBADA, from this JSON Lines file of passages.")
@click.option(
    "--sample", type=Count(1), default=None, help="So many passages of it, drawn with the seed (needs --folder)."
)
@click.option("--include", type=Input(folder=True), default=None, help="A folder of further task files.")
@click.option("--limit", type=Count(1), default=None, help="Documents of each task.")
@click.option(
    "--until", type=SHARE, default=None, help="Stop when one guide is the best with this probability, such as 0.95."
)
@click.option("--metric", default=None, help="What --until compares; the task's first metric if left out.")
@click.option("--batch-size", type=Count(1), default=16, show_default=True)
@click.option("--folder", default=None, help="Keep every answer here; the same call continues after a kill.")
@click.option("--seed", type=Count(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(tasks: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure a model on TASKS of lm-evaluation-harness under one guide or a grid of them.

    \b
    counterpoint eval --lambada passages.jsonl --scales 1,1.25,1.5,2 --folder run
    counterpoint eval --lambada passages.jsonl --scales 1,1.25,1.5,2 --until 0.95 --metric acc
    counterpoint eval where --help
    """
    guides = _guides(options)
    negative = read_text(options["negative"], options["negative_file"], name="negative")
    with plain_warnings(), needs("eval"):
        from counterpoint.evaluate.table import plain, print_table, quiet

        with quiet():
            from counterpoint.evaluate.grid import run_grid
            from counterpoint.evaluate.tasks import lambada

            wanted: list[Any] = list(tasks)
            if options["lambada"] is not None:
                wanted.append(
                    lambada(
                        options["lambada"], sample=options["sample"], seed=options["seed"], folder=options["folder"]
                    )
                )
            run: Any = run_grid
            if options["until"] is not None:
                from counterpoint.evaluate.until import run_until

                run = functools.partial(run_until, until=options["until"], metric=options["metric"])
            record = run(
                wanted,
                guides,
                folder=options["folder"],
                include=options["include"],
                limit=options["limit"],
                seed=options["seed"],
                pretrained=options["model"],
                branch=options["branch"],
                negative=negative,
                batch_size=options["batch_size"],
                dtype=options["dtype"] or "auto",
                trust_remote_code=options["trust_remote_code"],
                device=options["device"],
                weights=options["weights"],
                compile=options["compile"],
            )
        if as_json:
            print(json.dumps(plain(record), ensure_ascii=False))
        else:
            print_table(record, sys.stdout)


def _guides(options: dict[str, Any]) -> list[Guide]:
    """The guides of --guide, then those of --scales and --spaces; unguided and the default where there is none."""
    guides = [Guide.parse(text) for text in options["guides"]]
    for scale in filter(None, (part.strip() for part in (options["scales"] or "").split(","))):
        for space in filter(None, (part.strip() for part in (options["spaces"] or "log").split(","))):
            guide = Guide.parse(f"scale={scale},space={space}")
            if guide.scale != 1 or guide.scale not in [g.scale for g in guides]:  # at 1 the spaces are one
                guides.append(guide)
    return guides or [Guide(scale=1.0), Guide(scale=1.5)]
