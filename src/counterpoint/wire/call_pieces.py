"""Calls of tools read while they are written: the text of an output that is held to their form, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class CallPiece:
    """What is new of one call.

    Args:
        number: of the call in the output, from 0.
        name: of the function, in the first piece of a call; None later.
        arguments: more of their JSON text; may be empty.
        is_whole: whether the arguments end with it.
    """

    number: int
    name: str | None
    arguments: str
    is_whole: bool


class CallPieces:
    """Reads one output.

    Args:
        name: the one function whose arguments the output is; None where it is a list of
            {"name": ..., "parameters": ...}, in this order, as the form of demanded calls has it.
    """

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._number = 0
        self._before = ""  # read and not understood yet: what stands before the arguments
        self._scanner: _Value | None = None

    def read(self, text: str) -> list[CallPiece]:
        """The pieces that these further characters of the output make, as few as can be."""
        return list(self._pieces(text))

    def _pieces(self, text: str) -> Iterator[CallPiece]:
        while text:
            name = None
            if self._scanner is None:
                self._before += text
                found = self._begun()
                if found is None:
                    return
                name, text = found
                self._before, self._scanner = "", _Value()
            more, text = self._scanner.take(text)
            is_whole = self._scanner.is_over
            if more or name is not None or is_whole:
                yield CallPiece(self._number, name, more, is_whole)
            if not is_whole:
                return
            self._scanner, self._number = None, self._number + 1
            if self._name is not None:
                return

    def _begun(self) -> tuple[str, str] | None:
        """The name of the call that begins in what was read, and what of its arguments is there; None while there is none."""
        text = self._before
        if self._name is not None:
            begins = text.lstrip(SPACE)
            return (self._name, begins) if begins and not self._number else None
        key = text.find('"name"')
        colon = -1 if key < 0 else text.find(":", key + 6)
        begin = -1 if colon < 0 else text.find('"', colon)
        if begin < 0:
            return None
        try:
            name, end = json.JSONDecoder().raw_decode(text, begin)
        except ValueError:  # the name is not whole
            return None
        key = text.find('"parameters"', end)
        colon = -1 if key < 0 else text.find(":", key + 12)
        begins = "" if colon < 0 else text[colon + 1 :].lstrip(SPACE)
        return (name, begins) if begins else None


class _Value:
    """The end of one JSON value, of which characters come. A number ends where something else begins."""

    def __init__(self) -> None:
        self.is_over = False
        self._depth, self._in_text, self._is_escaped, self._is_begun = 0, False, False, False

    def take(self, text: str) -> tuple[str, str]:
        """What of the text belongs to the value, and what follows it."""
        for at, char in enumerate(text):
            if self._in_text:
                if self._is_escaped:
                    self._is_escaped = False
                elif char == "\\":
                    self._is_escaped = True
                elif char == '"':
                    self._in_text = False
                    if not self._depth:
                        return self._end(text, at + 1)
            elif char == '"':
                self._in_text = self._is_begun = True
            elif char in "[{":
                self._depth, self._is_begun = self._depth + 1, True
            elif char in "]}":
                if not self._depth:
                    return self._end(text, at)
                self._depth -= 1
                if not self._depth:
                    return self._end(text, at + 1)
            elif not self._depth and self._is_begun and char in f"{SPACE},":
                return self._end(text, at)
            else:
                self._is_begun = True
        return text, ""

    def _end(self, text: str, at: int) -> tuple[str, str]:
        self.is_over = True
        return text[:at], text[at:]
