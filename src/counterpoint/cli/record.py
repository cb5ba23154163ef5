"""What was asked, kept so that it can be made again: one JSON object a line."""

from __future__ import annotations

import datetime
import json
import os
import random
from typing import Any

import click

from counterpoint.errors import UsageError

STDIN = "counterpoint.stdin"
FILES = "counterpoint.files"
ARGUMENTS = "counterpoint.arguments"


def prepare_record(ctx: click.Context) -> None:
    """With --log: settle what chance would settle, so that the record can be made again."""
    if not ctx.params.get("log"):
        return
    if "seed" in ctx.params and ctx.params["seed"] is None:
        ctx.params["seed"] = random.SystemRandom().randrange(2**31)


def finish_record(ctx: click.Context) -> None:
    """With --log: append what was asked."""
    path = ctx.params.get("log")
    if not path:
        return
    from counterpoint import __version__

    record: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "counterpoint": __version__,
        "folder": os.getcwd(),
        "arguments": ctx.meta.get(ARGUMENTS, []),
        "seed": ctx.params.get("seed"),
        "files": ctx.meta.get(FILES, {}),
        "stdin": ctx.meta.get(STDIN),
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_record(path: str, number: int | None) -> dict[str, Any]:
    """A record of a file, by its line from 1; the last where `number` is None.

    Raises:
        UsageError: there is no such line, or it is no record.
    """
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    if not lines or (number is not None and not 1 <= number <= len(lines)):
        raise UsageError(
            f"{path!r} has {len(lines)} records; " + ("give one of those" if lines else "nothing to make again")
        )
    try:
        record = json.loads(lines[-1 if number is None else number - 1])
        arguments = [str(argument) for argument in record["arguments"]]
        return {**record, "arguments": arguments, "files": dict(record["files"])}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path!r} is no file that --log wrote") from None
