"""counterpoint chat"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from counterpoint.cli.command import Command, Options
from counterpoint.cli.kinds import Input
from counterpoint.cli.options import (
    DRAFTING,
    GUIDE,
    PRESETS,
    VECTOR,
    drafting,
    guide_from,
    model_group,
    open_model,
    plain_warnings,
    sampling_from,
    sampling_group,
)
from counterpoint.errors import CounterpointError, UsageError
from counterpoint.guide import DEFAULT_SCALE

if TYPE_CHECKING:
    from counterpoint.cli.talk.session import Session


def _check(options: Options) -> None:
    if options["load"] is not None:
        from counterpoint.contexts import Conversation

        with open(options["load"], encoding="utf-8") as file:
            Conversation.parse(file.read())


@click.command(
    "chat",
    cls=Command,
    groups=(GUIDE, sampling_group(512, 0.7), model_group("smollm2"), VECTOR, DRAFTING, PRESETS),
    check=_check,
    unused={
        "negative": "--negative-system",
        "chat": "a conversation",
        **dict.fromkeys(("last_tokens", "empty", "suffix", "without", "instead", "branch"), "--negative-system"),
    },
)
@click.option("--system", default=None, metavar="TEXT", help="The system message.")
@click.option(
    "--negative-system", default=None, metavar="TEXT", help="The one to move away from: a text, 'none' or 'default'."
)
@click.option("--load", type=Input(), default=None, help="Go on with a conversation that /save wrote.")
def command(**options: Any) -> int:
    """Talk to a chat model, with guidance as one of the controls. /help lists the others.

    \b
    counterpoint chat --system "You are polite." --negative-system "You are rude." --scale 2
    """
    with plain_warnings():
        return _talk(options)


def _talk(options: Options) -> int:
    from rich.console import Console

    from counterpoint.cli.talk.commands import COMMANDS
    from counterpoint.cli.talk.lines import editing

    console = Console(highlight=False)
    session = _session(options)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        negative = session.conversation.negative
        against = "no negative yet: /negative TEXT" if negative is None else "guided"
        console.print(
            f"{session.model.name}, {against}. /help lists the commands, Ctrl-D ends.", style="dim", markup=False
        )
    with editing([f"/{name}" for name in COMMANDS]):
        return _loop(session, console, is_terminal)


def _session(options: Options) -> Session:
    from counterpoint.cli.talk.session import Controls, Session
    from counterpoint.contexts import Conversation, System

    named: dict[str | None, Any] = {None: None, **{system.value: system for system in System}}
    negative = named.get(options["negative_system"], options["negative_system"])
    conversation = Conversation(system=options["system"], negative=negative)
    if options["load"] is not None:
        with open(options["load"], encoding="utf-8") as file:
            loaded = Conversation.parse(file.read())
        conversation = loaded.under(
            system=options["system"] if options["system"] is not None else loaded.system,
            negative=loaded.negative if negative is None else negative,
        )
    guide = guide_from({**options, "scale": DEFAULT_SCALE if options["scale"] is None else options["scale"]})
    assert guide is not None
    model = open_model(options)
    if model.tokenizer is None or not model.tokenizer.chat_template:
        raise UsageError(f"{model.name} has no chat template, so it can't talk; take a chat model, as --model smollm2")
    return Session(model, conversation, Controls(guide, sampling_from(options)), drafting=drafting(options))


def _loop(session: Session, console: Any, is_terminal: bool) -> int:
    from counterpoint.cli.talk.commands import Quit, run_command
    from counterpoint.cli.talk.lines import read_message

    while True:
        try:
            text = read_message("> ")
        except EOFError:
            if is_terminal:
                print()
            return 0
        except KeyboardInterrupt:
            print("\n(Ctrl-D ends)" if is_terminal else "")
            continue
        if not text:
            continue
        try:
            if text.startswith("/") and not text.startswith("//"):
                shown = run_command(text, session, console)
                if isinstance(shown, str):
                    print(shown)
                elif shown is not None:
                    _show(session, shown, is_terminal)
            else:
                _show(session, session.say(text.removeprefix("/") if text.startswith("//") else text), is_terminal)
        except Quit:
            return 0
        except CounterpointError as error:
            print(f"counterpoint: {' '.join(str(error).split())}", file=sys.stderr)


def _show(session: Session, answer: Iterator[str], is_terminal: bool) -> None:
    """Write an answer as it comes; Ctrl-C ends it, and what is there stays."""
    if session.num_forgotten:
        print(f"(the oldest {session.num_forgotten} exchanges are forgotten: the context is full)", file=sys.stderr)
    with _interruptible() as interrupted, contextlib.closing(answer):  # type: ignore[type-var]
        is_begun = False
        for piece in answer:
            if not is_begun:
                piece = piece.lstrip()
            is_begun = is_begun or bool(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
            if interrupted:
                break
    print(" [stopped]" if interrupted else "", flush=True)
    reason = session.last_trace.finish_reason if session.last_trace is not None else None
    if session.aside is None and not interrupted and reason in ("length", "context"):
        cut = "at /max-tokens" if reason == "length" else "where the context is full"
        print(
            f"(the answer is cut {cut} {session.controls.sampling['max_tokens'] if reason == 'length' else ''})",
            file=sys.stderr,
        )
    if session.aside is not None:
        print("(the conversation keeps the guided answer; /keep takes this one instead)", file=sys.stderr)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C fills, so that a step of the model is never cut in two; a second one breaks off."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
