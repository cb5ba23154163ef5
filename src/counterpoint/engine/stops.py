"""Texts that stop an output, looked for as the text grows: a few steps a character, however long they are.

Each text is followed by the automaton of Knuth, Morris and Pratt: its state is how much of the text the output ends with,
which is also what must be held back. Libraries find whole matches; none tells that state.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence


class StopTexts:
    """Stop texts and how far each has come.

    Args:
        texts: each of at least one character.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [(text, fallbacks(text)) for text in texts]
        self._states = [0] * len(self._texts)

    @property
    def num_held(self) -> int:
        """Characters at the end of what was read that a stop text may begin with."""
        return max(self._states, default=0)

    def read(self, piece: str) -> int | None:
        """Go on with a piece of the output. Where stop texts end in it, the characters from the beginning of the first of
        them to the end of the piece; else None."""
        longest = None
        for number, (text, falls) in enumerate(self._texts):
            state = self._states[number]
            for at, char in enumerate(piece):
                while state and text[state] != char:
                    state = falls[state - 1]
                state += text[state] == char
                if state == len(text):
                    begin = len(piece) - at - 1 + len(text)
                    longest = begin if longest is None else max(longest, begin)
                    state = falls[-1]
            self._states[number] = state
        return longest


@functools.lru_cache(maxsize=256)
def fallbacks(text: str) -> tuple[int, ...]:
    """For each beginning of a text, the length of the longest shorter one that it ends with. Kept, since the samples of a
    request and its check have the same texts."""
    falls, state = [0], 0
    for char in text[1:]:
        while state and text[state] != char:
            state = falls[state - 1]
        state += text[state] == char
        falls.append(state)
    return tuple(falls)
