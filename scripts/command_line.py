"""Write the help texts of the command line into docs/command-line.md; with --check, fail where they are stale.

python scripts/command_line.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from counterpoint.cli import COMMANDS, cli

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
BEGIN, END = "<!-- help: written by scripts/command_line.py -->", "<!-- end of help -->"
WIDTH = 100


def helps() -> str:
    """The help of the whole and of every command, as markdown."""
    parts = []
    for name in ["", *COMMANDS]:
        parent = click.Context(cli, info_name="counterpoint", terminal_width=WIDTH, max_content_width=WIDTH)
        command = cli.get_command(parent, name) if name else cli
        assert command is not None
        ctx = click.Context(command, info_name=name, parent=parent) if name else parent
        ctx.terminal_width = ctx.max_content_width = WIDTH
        title = f"### counterpoint {name}".rstrip()
        text = "\n".join(line.rstrip() for line in command.get_help(ctx).splitlines())
        parts.append(f"{title}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


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
