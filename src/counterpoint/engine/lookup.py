"""Guesses at the next tokens from what the text has said before."""

from __future__ import annotations

from collections.abc import Iterable

from counterpoint.engine.pace import Pace

LONGEST, SHORTEST = 4, 2  # tokens at the end of the text that are looked for earlier in it


class Lookup:
    """What followed the last time that the text said what it says now.

    Args:
        ids: the prompt.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # the tokens -> position after their last occurrence but the end
        self._pace = Pace()
        for token_id in ids:
            self._append(token_id)

    def extend(self, token_id: int) -> None:
        """The text has one more token."""
        self._append(token_id)
        self._pace.extend()

    def _append(self, token_id: int) -> None:
        end = len(self._ids)
        for n in range(SHORTEST, LONGEST + 1):
            if end >= n:
                self._after[tuple(self._ids[-n:])] = end
        self._ids.append(token_id)

    def guess(self, count: int) -> list[int]:
        """So many tokens that may come next; empty where nothing like the text's end came before."""
        if self._pace.waits or count < 1:
            return []
        for n in range(min(LONGEST, len(self._ids)), SHORTEST - 1, -1):
            at = self._after.get(tuple(self._ids[-n:]))
            if at is not None:
                return self._from(at, count)
        return []

    def _from(self, at: int, count: int) -> list[int]:
        """The text from a position on, and past its end once more from there."""
        ids: list[int] = []
        for place in range(at, at + count):
            ids.append(self._ids[place] if place < len(self._ids) else ids[place - len(self._ids)])
        return ids

    def judge(self, num_right: int) -> None:
        """How many tokens of the last guess were right."""
        self._pace.judge(num_right)
