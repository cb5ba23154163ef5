"""Token ids to text as they come, and the texts that stop an output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "�"  # what a decoder writes for part of a character


class TextStream:
    """The text of a growing output: whole characters only, cut before a stop text.

    Args:
        decode: token ids to text.
        stop: texts that end the output.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []
        self._start = self._read = 0  # decoded from start on; up to read is in the text already
        self._shown = 0
        self.text = ""
        self.stopped = False

    def add(self, token_id: int) -> str:
        """Take one more token; returns the text that can be shown now."""
        self._ids.append(token_id)
        # Decoding a few tokens before the new ones keeps spaces that depend on the neighbour.
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        if len(after) > len(before) and not after.endswith(INCOMPLETE):
            self.text += after[len(before) :]
            self._start, self._read = self._read, len(self._ids)
            self._cut()
        return self._show(len(self.text) if self.stopped else len(self.text) - self._held())

    def finish(self) -> str:
        """No more tokens come; returns what was held back."""
        if not self.stopped:
            before = self._decode(self._ids[self._start : self._read])
            self.text += self._decode(self._ids[self._start :])[len(before) :]
            self._cut()
        return self._show(len(self.text))

    def _cut(self) -> None:
        places = [
            at for at in (self.text.find(text, max(0, self._shown - len(text))) for text in self._stop) if at >= 0
        ]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _held(self) -> int:
        """Length of the longest end of the text that a stop text may begin with."""
        longest = max((len(text) for text in self._stop), default=1) - 1
        for n in range(min(longest, len(self.text)), 0, -1):
            if any(text.startswith(self.text[-n:]) for text in self._stop):
                return n
        return 0

    def _show(self, end: int) -> str:
        piece, self._shown = self.text[self._shown : end], max(self._shown, end)
        return piece
