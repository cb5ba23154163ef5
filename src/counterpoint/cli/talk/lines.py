"""What a person types, as messages: editing, history, several lines, and texts that are pasted."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

FENCE = '"""'
PASTE_S = 0.03  # a line that follows within this time was not typed
LARGEST_HISTORY = 1000


@contextlib.contextmanager
def editing(commands: list[str]) -> Iterator[None]:
    """Line editing with a history that outlives the process, and completion of commands; only on a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    import readline

    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "counterpoint"
    file = folder / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(LARGEST_HISTORY)
    readline.parse_and_bind("tab: complete")
    readline.parse_and_bind("set enable-bracketed-paste on")
    readline.set_completer_delims(" ")
    readline.set_completer(
        lambda text, i: next(iter([c + " " for c in commands if c.startswith(text)][i : i + 1]), None)
    )
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)


def read_message(prompt: str) -> str:
    """One message.

    Raises:
        EOFError: there is no more.
        KeyboardInterrupt: Ctrl-C.
    """
    is_terminal = sys.stdin.isatty()
    line = _input(prompt, is_terminal)
    if line.strip().startswith(FENCE):
        return _fenced(line.strip().removeprefix(FENCE), is_terminal)
    lines = [line]
    while lines[-1].endswith("\\") or (is_terminal and _is_pasted()):
        if lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
        try:
            lines.append(_input("... ", is_terminal))
        except EOFError:
            break
    return "\n".join(lines).strip()


def _fenced(begun: str, is_terminal: bool) -> str:
    lines = [begun] if begun else []
    while not (lines and lines[-1].rstrip().endswith(FENCE)):
        try:
            lines.append(_input("... ", is_terminal))
        except EOFError:
            return "\n".join(lines).strip()
    lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
    return "\n".join(lines).strip()


def _is_pasted() -> bool:
    return bool(select.select([sys.stdin], [], [], PASTE_S)[0])


def _input(prompt: str, is_terminal: bool) -> str:
    if is_terminal:
        return input(prompt)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
