"""What the answers are to: prompts and conversations, from values or from a file. Knows no model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.batch.lines import read_object
from counterpoint.contexts import Conversation
from counterpoint.errors import PromptError

FIELDS = ("prompt", "turns", "messages", "system", "negative")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What a user says, turn by turn. The guided model answers each turn that has no answer yet.

    Args:
        turns: the user's, at least one. A prompt that is no chat is one turn.
        answers: of the first turns, where they are given.
        system: a system message of its own, in place of the run's.
        negative: another system message (in plain text another prompt) of its own, in place of the run's.

    Raises:
        PromptError: a turn is empty, or every turn is answered.
    """

    turns: tuple[str, ...]
    answers: tuple[str, ...] = ()
    system: str | None = None
    negative: Any = None

    def __post_init__(self) -> None:
        if not self.turns or any(not isinstance(turn, str) or not turn.strip() for turn in self.turns):
            raise PromptError(f"a prompt is empty: {list(self.turns)!r:.60}; give a text")
        if len(self.answers) >= len(self.turns):
            raise PromptError("a conversation ends with an answer; end it with what the user says last")


def as_prompt(value: Any) -> Any:
    """A caller's prompt as a `Dialogue`, where it is made of texts: a text, a list of texts (the user's turns), messages,
    or a `Conversation`. What is something else (token ids, a built prompt) stays as it is.

    Raises:
        PromptError: a text is empty, or the messages are no conversation.
    """
    if isinstance(value, str):
        return Dialogue((value,))
    if isinstance(value, Conversation):
        answers = [one.answer for one in value.exchanges if one.answer is not None]
        turns = tuple(one.user for one in value.exchanges)
        return Dialogue(turns, tuple(answers), value.system, value.negative)
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        return Dialogue(tuple(value))
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return as_prompt(Conversation.from_dict(list(value)))
    return value


def read_file(path: str | Path) -> list[Dialogue]:
    """The prompts of a file, one a line: a text, or a JSON object.

    {"prompt": TEXT}             one question
    {"turns": [TEXT, ...]}       a conversation: what the user says; the model answers each turn
    {"messages": [OBJECT, ...]}  a conversation with its answers so far

    and with any of them "system" and "negative", which take the place of the run's.

    Raises:
        PromptError: the file can't be read, or a line is wrong; the message has its number.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise PromptError(f"the file {str(path)!r} can't be read: {error.strerror}", param="prompts") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_read_line(line))
        except PromptError as error:
            raise PromptError(f"{path} line {number}: {error}", param="prompts") from None
    if not found:
        raise PromptError(f"the file {str(path)!r} holds no prompt; write one a line", param="prompts")
    return found


def _read_line(line: bytes) -> Dialogue:
    if not line.lstrip().startswith(b"{"):
        try:
            return Dialogue((line.decode().strip(),))
        except UnicodeDecodeError as error:
            raise PromptError(f"not valid UTF-8 at byte {error.start}; convert it first") from None
    record = read_object(line, 'an object with a prompt; write {"prompt": "..."}')
    for name in record:
        if name not in FIELDS:
            raise PromptError(f"unknown field {name!r}; known are {', '.join(FIELDS)}")
    given = [name for name in FIELDS[:3] if record.get(name) is not None]
    if len(given) != 1:
        raise PromptError(f"it has {' and '.join(given) or 'no prompt'}; give one of {', '.join(FIELDS[:3])}")
    value = record[given[0]]
    wanted = {"prompt": str, "turns": list, "messages": list}[given[0]]
    if not isinstance(value, wanted) or not value:
        kind = "a text" if wanted is str else "a list"
        raise PromptError(f"{given[0]} is {value!r:.60}; give {kind} that is not empty")
    if given[0] == "turns" and any(not isinstance(turn, str) for turn in value):
        raise PromptError(f"turns is {value!r:.60}; give texts, what the user says turn by turn")
    made = as_prompt(value)
    for name in ("system", "negative"):
        own = record.get(name)
        if own is not None and (not isinstance(own, str) or not own):
            raise PromptError(f"{name} is {own!r:.60}; give a text that is not empty")
    if record.get("system") is not None and made.system is not None:
        raise PromptError("system is given, and the messages have one; keep one")
    return Dialogue(made.turns, made.answers, record.get("system") or made.system, record.get("negative"))


def split(prompts: Sequence[Any], share: float, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the prompts to learn from, and of those held out, at least one of them unless the share is 0; each in
    the order given."""
    if share == 0:
        return list(range(len(prompts))), []
    num_held = max(1, round(share * len(prompts)))
    held = set(random.Random(f"{seed}/held out").sample(range(len(prompts)), min(num_held, len(prompts))))
    return [i for i in range(len(prompts)) if i not in held], sorted(held)
