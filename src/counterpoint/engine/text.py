"""Token ids to text as they come, and the texts that stop an output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "�"  # what a decoder writes for part of a character
MOST_AGAIN = 4  # tokens that are decoded along with the newest


class TextStream:
    """The text of a growing output: whole characters only, cut before a stop text.

    Args:
        decode: token ids to text.
        stop: texts that end the output.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, stop
        self._longest = max(map(len, stop), default=1) - 1  # part of a stop text
        self._ids: list[int] = []
        self._start = self._read = 0  # decoded from start on; up to read is in the text already
        self._before = ""  # from start to read
        self._shown = 0
        self.text = ""
        self.stopped = False

    def add(self, token_id: int) -> str:
        """Take one more token; returns the text that can be shown now."""
        self._ids.append(token_id)
        # Decoding a few tokens before the new ones keeps spaces that depend on the neighbour.
        after = self._decode(self._ids[self._start :])
        if len(after) > len(self._before) and not after.endswith(INCOMPLETE):
            self.text += after[len(self._before) :]
            last, self._read, self._before = self._read, len(self._ids), after
            if self._read - self._start > MOST_AGAIN:
                self._start, self._before = last, self._decode(self._ids[last:])
            self._cut()
        return self._show(len(self.text) if self.stopped else len(self.text) - self._held())

    def finish(self) -> str:
        """No more tokens come; returns what was held back."""
        if not self.stopped:
            self.text += self._decode(self._ids[self._start :])[len(self._before) :]
            self._cut()
        return self._show(len(self.text))

    def _cut(self) -> None:
        if not self._stop:
            return
        places = [
            at for at in (self.text.find(text, max(0, self._shown - len(text))) for text in self._stop) if at >= 0
        ]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _held(self) -> int:
        """Length of the longest end of the text that a stop text may begin with."""
        for n in range(min(self._longest, len(self.text)), 0, -1):
            if any(text.startswith(self.text[-n:]) for text in self._stop):
                return n
        return 0

    def _show(self, end: int) -> str:
        piece, self._shown = self.text[self._shown : end], max(self._shown, end)
        return piece
