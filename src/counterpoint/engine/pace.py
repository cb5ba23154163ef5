"""When guesses at the next tokens are worth their time."""

from __future__ import annotations


class Pace:
    """When to guess: after guesses that were wrong from the first token on, it waits twice as long each time."""

    def __init__(self) -> None:
        self._wait = self._wrong = 0

    @property
    def waits(self) -> bool:
        """Whether nothing should be guessed now."""
        return self._wait > 0

    def extend(self) -> None:
        """The text has one more token."""
        self._wait = max(0, self._wait - 1)

    def judge(self, num_right: int) -> None:
        """How many tokens of the last guess were right."""
        self._wrong = 0 if num_right else self._wrong + 1
        self._wait = 2**self._wrong - 1 if self._wrong > 1 else 0
