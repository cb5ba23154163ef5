"""A watch over one text: its steps so far, and the score of the last ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from counterpoint.watch.distance import row_of

if TYPE_CHECKING:
    from counterpoint.engine.watching import Numbers
    from counterpoint.watch.watch import Watch


class Watching:
    """A watch as one text has it (see `engine.watching.Watcher`)."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._steps: list[int] = []
        self._rows = np.empty((0, 0))  # what was heard at each step, with room for more

    def hear(self, step: int, numbers: Numbers) -> float | None:
        row, count = row_of(numbers), len(self._steps)
        if count == len(self._rows):
            more = np.empty((max(2 * count, 64), len(row)))
            if count:
                more[:count] = self._rows
            self._rows = more
        self._rows[count] = row
        self._steps.append(step)
        return None if count + 1 < self._watch.window else self._watch.last_score(self._rows[: count + 1])

    @property
    def begin(self) -> int:
        return self._steps[-min(self._watch.window, len(self._steps))]

    def cut(self, length: int) -> None:
        while self._steps and self._steps[-1] >= length:
            self._steps.pop()
