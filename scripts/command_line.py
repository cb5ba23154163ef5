"""Write the help texts of the command line into docs/command-line.md; with --check, fail where they are stale.

python scripts/command_line.py [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from counterpoint.cli import cli

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
BEGIN, END = "<!-- help: written by scripts/command_line.py -->", "<!-- end of help -->"
WIDTH = 100


def helps() -> str:
    """The help of the whole and of every command, as markdown."""
    return "\n\n".join(_helps(click.Context(cli, info_name="counterpoint")))


def _helps(ctx: click.Context) -> Iterator[str]:
    ctx.terminal_width = ctx.max_content_width = WIDTH
    text = "\n".join(line.rstrip() for line in ctx.command.get_help(ctx).splitlines())
    yield f"### {ctx.command_path}\n\n```text\n{text}\n```"
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            assert command is not None
            yield from _helps(click.Context(command, info_name=name, parent=ctx))


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(rf"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    written = pattern.sub(lambda _: f"{BEGIN}\n\n{helps()}\n\n{END}", page)
    if "--check" not in sys.argv:
        PAGE.write_text(written, encoding="utf-8")
        return 0
    if written != page:
        print(f"{PAGE.name} is stale; run: python scripts/command_line.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
