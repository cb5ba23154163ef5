"""Rows whose forwards run under switches: what is on while they read, and off for everybody else.

An adapter is one kind of switch. A switch is anything that turns the model to one state and back, as a context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from torch import Tensor

from counterpoint.models.rows import Feed, Rows, Snapshot

Switch = Callable[[], AbstractContextManager[None]]


class SwitchedRows(Rows):
    """Rows of the same weights in another state.

    Args:
        rows: rows that nobody else uses, since what they hold was read in that state.
        switches: turned on in this order around each forward, and off in the opposite one.
    """

    def __init__(self, rows: Rows, switches: Sequence[Switch]) -> None:
        self._rows, self._switches = rows, tuple(switches)
        self.can_crop, self.is_joint = rows.can_crop, rows.is_joint

    @property
    def num_rows(self) -> int:
        return self._rows.num_rows

    @property
    def most_alike(self) -> int:
        return self._rows.most_alike

    @property
    def num_bytes(self) -> int:
        return self._rows.num_bytes

    def add(self) -> int:
        return self._rows.add()

    def fork(self, row: int, length: int | None = None) -> int:
        return self._rows.fork(row, length)

    def crop(self, row: int, length: int) -> None:
        self._rows.crop(row, length)

    def free(self, row: int) -> None:
        self._rows.free(row)

    def length(self, row: int) -> int:
        return self._rows.length(row)

    def snapshot(self, row: int, length: int) -> Snapshot | None:
        return self._rows.snapshot(row, length)

    def add_from(self, snapshot: Snapshot, length: int) -> int:
        return self._rows.add_from(snapshot, length)

    def expect(self, num_steps: int, num_rounds: int) -> None:
        self._rows.expect(num_steps, num_rounds)

    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        with ExitStack() as stack:
            for switch in self._switches:
                stack.enter_context(switch())
            return self._rows.forward(feeds)
