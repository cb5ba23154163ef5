"""counterpoint again"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from pathlib import Path

import click

from counterpoint.cli.command import Command
from counterpoint.cli.kinds import Count, Input
from counterpoint.cli.record import read_record
from counterpoint.errors import UsageError


@click.command("again", cls=Command)
@click.argument("record", type=Input(), metavar="FILE")
@click.argument("number", type=Count(1), required=False)
@click.option("--anyway", is_flag=True, help="Also where files that it reads have changed since.")
@click.option("--show", is_flag=True, help="Print what was asked instead of making it again.")
def command(record: str, number: int | None, anyway: bool, show: bool) -> int:
    """Make again what --log kept in FILE: its line NUMBER, or the last."""
    import shlex

    from counterpoint.cli import run

    asked = read_record(record, number)
    arguments = [*asked["arguments"]]
    if asked.get("seed") is not None and not any(a == "--seed" or a.startswith("--seed=") for a in arguments):
        arguments += ["--seed", str(asked["seed"])]
    if show:
        print(shlex.join(["counterpoint", *arguments]))
        return 0
    for path, digest in asked["files"].items():
        now = hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else "missing"
        if now != digest and not anyway:
            how = "is gone" if now == "missing" else "has changed"
            raise UsageError(f"{path!r} {how} since it was read; --anyway goes on")
    if asked.get("stdin") is not None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(asked["stdin"].encode()))
    if asked.get("folder") and Path(asked["folder"]).is_dir():
        os.chdir(asked["folder"])
    return run(_without_log(arguments)) or 0


def _without_log(arguments: list[str]) -> list[str]:
    """The arguments without --log, so that making it again is not one more record."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--log":
            skip = True
        elif not argument.startswith("--log="):
            kept.append(argument)
    return kept
