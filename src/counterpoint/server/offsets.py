"""Where the tokens of a text begin in it."""

from __future__ import annotations

import codecs

from counterpoint.trace.labels import Labeller


class Offsets:
    """Where tokens begin in a text, in characters. A token that is part of a character begins where that does.

    Args:
        label: the bytes of tokens.
        echo: what stands in the text before the output. A prompt's token is looked for there: special tokens stand in it
            only where the prompt was written with them, and the space that tokenizers put before a text does not.
    """

    def __init__(self, label: Labeller, echo: str = "") -> None:
        self._label, self._echo = label, echo
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._count = 0

    def take_echoed(self, token_id: int) -> int:
        """The place of the prompt's next token."""
        at = self._count
        piece = self._decoder.decode(self._label.bytes(token_id))
        if not self._echo.startswith(piece, at):
            if piece.startswith(" ") and self._echo.startswith(piece[1:], at):
                piece = piece[1:]
            elif self._label.is_special(token_id):
                piece = ""
        self._count = min(at + len(piece), len(self._echo))
        return at

    def end_echo(self) -> None:
        """The prompt is over: the output begins behind its text."""
        self._decoder.reset()
        self._count = len(self._echo)

    def take(self, token_id: int) -> int:
        """The place of the output's next token. Special tokens add nothing to an output."""
        at = self._count
        if not self._label.is_special(token_id):
            self._count += len(self._decoder.decode(self._label.bytes(token_id)))
        return at
