"""Token ids to text as they come, and the texts that stop an output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from counterpoint.engine.stops import StopTexts

INCOMPLETE = "�"  # what a decoder writes for part of a character
MOST_AGAIN = 4  # tokens that are decoded along with the newest


class TextStream:
    """The text of a growing output: whole characters only, cut before a stop text.

    Args:
        decode: token ids to text.
        stop: texts that end the output.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, StopTexts(stop)
        self._ids: list[int] = []
        self._start = self._read = 0  # decoded from start on; up to read is in the text already
        self._before = ""  # from start to read
        self._shown = 0
        self.text = ""
        self.stopped = False

    def add(self, token_id: int, *, can_stop: bool = True) -> str:
        """Take one more token; returns the text that can be shown now.

        Args:
            can_stop: whether a stop text may begin in what this token adds.
        """
        self._ids.append(token_id)
        # Decoding a few tokens before the new ones keeps spaces that depend on the neighbour.
        after = self._decode(self._ids[self._start :])
        if len(after) > len(self._before) and not after.endswith(INCOMPLETE):
            self._write(after[len(self._before) :], can_stop)
            last, self._read, self._before = self._read, len(self._ids), after
            if self._read - self._start > MOST_AGAIN:
                self._start, self._before = last, self._decode(self._ids[last:])
        return self._show(len(self.text) if self.stopped else len(self.text) - self._stop.num_held)

    def finish(self) -> str:
        """No more tokens come; returns what was held back."""
        if not self.stopped:
            self._write(self._decode(self._ids[self._start :])[len(self._before) :], True)
        return self._show(len(self.text))

    def _write(self, piece: str, can_stop: bool) -> None:
        self.text += piece
        num_cut = self._stop.read(piece) if can_stop else None
        if num_cut is not None:
            self.text, self.stopped = self.text[: len(self.text) - num_cut], True

    def _show(self, end: int) -> str:
        piece, self._shown = self.text[self._shown : end], max(self._shown, end)
        return piece
