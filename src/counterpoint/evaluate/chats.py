"""A chat that is text already, and the same chat without its system message. Knows no tokens and no model.

The harness renders a chat once and may keep the text for later runs. So the text alone decides what the other branch
reads: `ChatTexts` learns from the template what it writes around a system message, and takes that out of the text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint.errors import PromptError

Render = Callable[[Sequence[dict[str, Any]]], str]
_SYSTEM, _USER = "counterpoint-marks-the-system-message", "counterpoint-marks-the-user-turn"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chat template writes around the contents of a system message and of the first user turn.

    Args:
        before, between: before the system message, and from its end to the user's text.
        alone: before the user's text where the conversation has no system message.
        is_marked: whether a text with a system message can be told from one without.
    """

    before: str
    between: str
    alone: str
    is_marked: bool

    @classmethod
    def of(cls, render: Render) -> Frame | None:
        """The frame of a template; None where it shows no system message."""
        user = {"role": "user", "content": _USER}
        both, single = render([{"role": "system", "content": _SYSTEM}, user]), render([user])
        before, system, rest = both.partition(_SYSTEM)
        between, found, _ = rest.partition(_USER)
        alone, found_alone, _ = single.partition(_USER)
        if not (system and found and found_alone):
            return None
        # A template with a default of its own writes a system message in both cases, and reading it finds one.
        is_told = not alone.startswith(before) or between in alone[len(before) :]
        return cls(before, between, alone, is_marked=bool(before and between) and is_told)

    def without_system(self, text: str) -> str | None:
        """The chat without its system message; the text itself where it has none; None where it is no chat."""
        if text.startswith(self.before):
            end = text.find(self.between, len(self.before))
            if end >= 0:
                return self.alone + text[end + len(self.between) :]
        if self.alone and text.startswith(self.alone):
            return text
        return None

    def begins(self, text: str) -> bool:
        """Whether a text begins as all chats of the template do, whatever the template writes of today's date."""
        words = os.path.commonprefix([self.before, self.alone]).split(maxsplit=1)
        return bool(words) and text.lstrip().startswith(words[0])


class ChatTexts:
    """The chats of one template as text.

    Args:
        render: messages to text, as the harness renders them.
        rendered: the texts of a template whose system messages can't be found again, each without its system message;
            filled by `check`.
    """

    def __init__(self, render: Render, rendered: dict[str, str]) -> None:
        self._frame, self._rendered = Frame.of(render), rendered

    def without_system(self, text: str) -> str | None:
        """The chat, with what a task appended to it, without its system message; None where the text is no chat.

        Raises:
            PromptError: it is a chat, and its system message can't be told from its other text.
        """
        frame = self._frame
        if frame is not None and frame.is_marked:
            found = frame.without_system(text)
            if found is None and frame.begins(text):
                raise PromptError(
                    f"the text {text[:40]!r} begins as the model's chats do, but not as its template writes them now; "
                    "build the requests anew (--cache_requests refresh), or give branch=last or negative=TEXT"
                )
            return found
        longest = max((known for known in self._rendered if text.startswith(known)), key=len, default=None)
        if longest is not None:
            return self._rendered[longest] + text[len(longest) :]
        if frame is not None and frame.begins(text):
            raise PromptError(
                "the model's chat template writes no mark around a system message, so it can't be found in a text that "
                "was rendered earlier; build the requests anew (--cache_requests refresh), or give branch=last or "
                "negative=TEXT"
            )
        return None

    def check(self, text: str, bare: str) -> None:
        """Be told what a chat is with and without its system message.

        Raises:
            PromptError: reading the text would give something else than `bare`.
        """
        if self._frame is None or not self._frame.is_marked:
            self._rendered[text] = bare
        elif self._frame.without_system(text) != bare:
            raise PromptError(
                f"the system message of the chat {text[:60]!r} can't be taken out again, since it or the turns hold what "
                "the chat template writes between messages; give branch=last or negative=TEXT"
            )
