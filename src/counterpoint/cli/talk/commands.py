"""What begins with a slash in `counterpoint chat`: each command with its line of help."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.cli.talk.session import Session
from counterpoint.contexts import Conversation, System
from counterpoint.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

Result = Iterator[str] | str | None  # an answer to show as it is written, a line to show, or nothing


class Quit(Exception):
    """The conversation is over."""


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """One command: what it takes, what it does, and how."""

    takes: str
    help: str
    run: Callable[[Session, str, Console], Result]


def run_command(line: str, session: Session, console: Console) -> Result:
    """Run a line that begins with a slash. Raises `UsageError` for one that is none of ours, and `Quit`."""
    name, _, rest = line[1:].partition(" ")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise UsageError(f"there is no command /{name[:40]}; {hint} (a text that begins with a slash: write two)")
    command = COMMANDS[name]
    if rest.strip() and not command.takes:
        raise UsageError(f"/{name} takes nothing; leave {rest.strip()[:40]!r} out")
    return command.run(session, rest.strip(), console)


def _number(name: str, of: type) -> Callable[[Session, str, Console], Result]:
    def run(session: Session, text: str, console: Console) -> Result:
        field = name.replace("-", "_")
        if not text:
            return f"{name} is {_shown(session, field)}"
        try:
            value = of(text)
        except ValueError:
            raise UsageError(f"{name} is {text[:40]!r}; use a number, as /{name} 2") from None
        session.controls = session.controls.turned(**{field: value})
        return f"{name} is {value:g}" + _without_negative(session, field)

    return run


def _word(name: str) -> Callable[[Session, str, Console], Result]:
    def run(session: Session, text: str, console: Console) -> Result:
        if text:
            session.controls = session.controls.turned(**{name: text})
        return f"{name} is {_shown(session, name)}" + _without_negative(session, name)

    return run


def _without_negative(session: Session, field: str) -> str:
    if field in session.controls.sampling or session.conversation.negative is not None:
        return ""
    return " (it takes effect with a /negative)"


def _shown(session: Session, field: str) -> Any:
    controls = session.controls
    return controls.sampling[field] if field in controls.sampling else getattr(controls.guide, field)


def _system(session: Session, text: str, console: Console) -> Result:
    conversation = session.conversation
    if text:
        system = None if text == "off" else text
        session.conversation = conversation.under(system=system, negative=conversation.negative)
    said = session.conversation.system
    return "the system message is the template's own" if said is None else f"the system message is {said!r}"


def _negative(session: Session, text: str, console: Console) -> Result:
    conversation = session.conversation
    if text:
        named: dict[str, Any] = {"off": None, **{system.value: system for system in System}}
        session.conversation = conversation.under(system=conversation.system, negative=named.get(text, text))
    negative = session.conversation.negative
    if negative is None:
        return "there is no negative, and so no guidance; /negative TEXT, or none, or default"
    read = repr(negative) if isinstance(negative, str) else f"the {negative.value} system message"
    return f"against {read}, at scale {session.controls.guide.scale:g}"


def _why(session: Session, text: str, console: Console) -> Result:
    from counterpoint.report import TraceReport

    if session.last_trace is None:
        return "there is no answer yet"
    if text:
        path = Path(text)
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {str(path.parent)!r}; make it first")
        TraceReport(session.last_trace).save(path)
        return f"the trace is in {text}"
    console.print(TraceReport(session.last_trace))
    return None


def _again(session: Session, text: str, console: Console) -> Result:
    return session.again()


def _unguided(session: Session, text: str, console: Console) -> Result:
    if session.last_trace is None:
        return "there is no answer yet"
    return session.unguided()


def _keep(session: Session, text: str, console: Console) -> Result:
    return "it is in the conversation now" if session.keep() else "there is nothing to keep; /unguided first"


def _undo(session: Session, text: str, console: Console) -> Result:
    session.conversation = session.conversation.undone()
    session.last_trace = session.aside = None
    return f"the last exchange is gone; {len(session.conversation.exchanges)} are left"


def _clear(session: Session, text: str, console: Console) -> Result:
    old = session.conversation
    session.conversation = Conversation(system=old.system, negative=old.negative)
    session.last_trace = session.aside = None
    return "the conversation begins anew"


def _history(session: Session, text: str, console: Console) -> Result:
    lines = [f"{message['role']}: {message['content']}" for message in session.conversation.messages]
    return "\n".join(lines) or "nothing was said yet"


def _settings(session: Session, text: str, console: Console) -> Result:
    controls, conversation = session.controls, session.conversation
    sampling = {
        name: value
        for name, value in controls.sampling.items()
        if not (value is None or value is False or value in ((), {}))
    }
    negative = conversation.negative.value if isinstance(conversation.negative, System) else conversation.negative
    lines = [
        f"model     {session.model.name}",
        f"guide     {controls.guide}",
        f"sampling  {', '.join(f'{name}={value}' for name, value in sampling.items())}",
        f"system    {conversation.system or 'of the template'}",
        f"negative  {negative or 'off'}",
        f"last seed {'none yet' if session.last_seed is None else session.last_seed}",
    ]
    return "\n".join(lines)


def _save(session: Session, text: str, console: Console) -> Result:
    try:
        Path(text or "conversation.json").write_text(
            json.dumps(session.conversation.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise UsageError(f"{text!r} can't be written: {error.strerror}; give another file") from None
    return f"the conversation is in {text or 'conversation.json'}"


def _load(session: Session, text: str, console: Console) -> Result:
    try:
        loaded = Conversation.parse(Path(text or "conversation.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{text or 'conversation.json'!r} can't be read: {error}; give another file") from None
    session.conversation, session.last_trace, session.aside = loaded, None, None
    return f"{len(loaded.exchanges)} exchanges are read"


def _help(session: Session, text: str, console: Console) -> Result:
    rows = [(f"/{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items()]
    width = max(len(left) for left, _ in rows) + 2
    keys = 'Several lines: end each but the last with \\, or write """ before and after. Ctrl-C stops an answer.'
    return "\n".join([*(f"{left:{width}}{right}" for left, right in rows), keys])


def _quit(session: Session, text: str, console: Console) -> Result:
    raise Quit


COMMANDS: dict[str, SlashCommand] = {
    "scale": SlashCommand(
        "NUMBER", "how strongly to move away from the negative; 1 is unguided", _number("scale", float)
    ),
    "space": SlashCommand("log|prob", "where predictions are combined", _word("space")),
    "plausibility": SlashCommand(
        "NUMBER", "keep tokens this close to the best; 0 is off", _number("plausibility", float)
    ),
    "negative": SlashCommand("TEXT|none|default|off", "the system message to move away from", _negative),
    "system": SlashCommand("TEXT|off", "the system message", _system),
    "temperature": SlashCommand("NUMBER", "0 is greedy", _number("temperature", float)),
    "max-tokens": SlashCommand("COUNT", "most tokens of an answer", _number("max-tokens", int)),
    "seed": SlashCommand("NUMBER", "makes answers repeatable", _number("seed", int)),
    "why": SlashCommand("[FILE.html]", "the trace of the last answer: why each token was chosen", _why),
    "unguided": SlashCommand("", "write the last answer again without guidance", _unguided),
    "keep": SlashCommand("", "take what /unguided wrote into the conversation", _keep),
    "again": SlashCommand("", "write another answer", _again),
    "undo": SlashCommand("", "take the last exchange back", _undo),
    "clear": SlashCommand("", "begin anew, under the same system messages", _clear),
    "history": SlashCommand("", "what was said", _history),
    "settings": SlashCommand("", "what is turned how", _settings),
    "save": SlashCommand("[FILE]", "write the conversation to a file", _save),
    "load": SlashCommand("[FILE]", "read a conversation from a file", _load),
    "help": SlashCommand("", "this list", _help),
    "quit": SlashCommand("", "end; so does Ctrl-D", _quit),
}
