"""Which options a plan's text has chosen so far, read byte by byte."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass

from counterpoint.constraints.kinds import Constraint, Regex
from counterpoint.constraints.ruled import Reader
from counterpoint.constraints.solving import Chosen, Solver
from counterpoint.errors import ConstraintError

MOST_READINGS = 2000
MOST_SPACES = 8  # between the text that a form comes after and the form
SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Layout:
    """A template cut into parts.

    Args:
        parts: a text, or the number of the slot that is written there; a slot's second place repeats its option.
        options: of each slot, as bytes; slots in the order of their first places.
    """

    parts: tuple[bytes | int, ...]
    options: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way of reading the text.

    Args:
        chosen: the options of slots that are behind.
        part: the part of the layout that is being written, and what of it is there.
        spaces: characters of white space that may still come before the first part.
    """

    chosen: Chosen
    part: int = 0
    typed: bytes = b""
    spaces: int = 0


class PlanReader(Reader):
    """Reads the text of a plan. Where options are ambiguous it follows all readings at once.

    Args:
        layout: the plan's template.
        solver: the plan's rules.
        after: the text that the plan comes after, as in `Json`; goes into the grammar only.
    """

    def __init__(
        self, layout: Layout, solver: Solver, after: str | None, readings: tuple[_Reading, ...] | None = None
    ) -> None:
        self._layout, self._solver, self._after = layout, solver, after
        first = _Reading((), spaces=0 if after is None else MOST_SPACES)
        self._readings = self._closed([first]) if readings is None else readings

    @property
    def key(self) -> Hashable:
        made = sorted({reading.chosen for reading in self._readings}, key=len)
        shortest: list[Chosen] = []
        for chosen in made:  # the grammar of fewer choices has the texts of more
            if not any(chosen[: len(one)] == one for one in shortest):
                shortest.append(chosen)
        return tuple(sorted(shortest))

    @property
    def complete(self) -> bool:
        return self.chosen is not None

    @property
    def chosen(self) -> Chosen | None:
        """The option of each slot, where the text is a whole plan."""
        end = len(self._layout.parts)
        return next((reading.chosen for reading in self._readings if reading.part == end), None)

    def after(self, text: bytes) -> PlanReader | None:
        readings = self._readings
        for byte in text:
            readings = self._closed([new for old in readings for new in self._next(old, byte)])
            if not readings:
                return None
        return PlanReader(self._layout, self._solver, self._after, readings)

    def form(self) -> Constraint:
        ways = "|".join(self._pattern(chosen) for chosen in self.key)  # type: ignore[attr-defined]
        return Regex(f"(?:{ways})", after=self._after)

    def _next(self, reading: _Reading, byte: int) -> list[_Reading]:
        found = []
        if reading.spaces and byte in SPACE:
            found.append(_Reading(reading.chosen, spaces=reading.spaces - 1))
        if reading.part < len(self._layout.parts):
            typed = reading.typed + bytes([byte])
            if any(text.startswith(typed) for text in self._texts(reading)):
                found.append(_Reading(reading.chosen, reading.part, typed))
        return found

    def _closed(self, readings: list[_Reading]) -> tuple[_Reading, ...]:
        """With the readings in which a part is whole and the next begins."""
        found: dict[_Reading, None] = {}
        todo = list(reversed(readings))
        while todo:
            reading = todo.pop()
            if reading in found:
                continue
            found[reading] = None
            if reading.typed and reading.part < len(self._layout.parts):
                texts = self._texts(reading)
                if reading.typed in texts:
                    todo.append(_Reading(self._made(reading), reading.part + 1))
                if not any(len(text) > len(reading.typed) and text.startswith(reading.typed) for text in texts):
                    del found[reading]
        if len(found) > MOST_READINGS:
            raise ConstraintError(
                f"the plan's text can be read in more than {MOST_READINGS} ways; put texts between its slots that no "
                "option has"
            )
        return tuple(found)

    def _texts(self, reading: _Reading) -> list[bytes]:
        part = self._layout.parts[reading.part]
        if isinstance(part, bytes):
            return [part]
        options = self._layout.options[part]
        if part < len(reading.chosen):
            return [options[reading.chosen[part]]]
        return [options[i] for i in self._solver.possible(reading.chosen)]

    def _made(self, reading: _Reading) -> Chosen:
        part = self._layout.parts[reading.part]
        if isinstance(part, bytes) or part < len(reading.chosen):
            return reading.chosen
        return (*reading.chosen, self._layout.options[part].index(reading.typed))

    def _pattern(self, chosen: Chosen) -> str:
        made: list[str] = []
        for part in self._layout.parts:
            if isinstance(part, bytes):
                made.append(_escaped(part))
                continue
            options = self._layout.options[part]
            if part < len(chosen):
                options = (options[chosen[part]],)
            elif part == len(chosen):
                options = tuple(options[i] for i in self._solver.possible(chosen))
            made.append("(?:" + "|".join(map(_escaped, options)) + ")")
        return "".join(made)


def _escaped(text: bytes) -> str:
    return re.sub(r"[^A-Za-z0-9 ]", lambda found: f"\\x{{{ord(found[0]):x}}}", text.decode())
