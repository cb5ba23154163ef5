"""What a model's head reads: the last states before each prediction, heard while rows are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from counterpoint.errors import Failure


class Heard:
    """The states that the head has read."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def take(self, states: Tensor) -> None:
        """(1, M, H) or (R, Q, H) of one call."""
        self._parts.append(states.reshape(-1, states.shape[-1]))

    def rows(self, count: int) -> Tensor:
        """(M, H), one for each prediction.

        Raises:
            Failure: the head has read another number, so that no state could be told to be one prediction's.
        """
        found = torch.cat(self._parts) if self._parts else torch.empty(0, 0)
        if len(found) != count:
            raise Failure(
                f"{len(found)} states were heard for {count} predictions, so a watch of states can't be kept; use one of "
                "numbers"
            )
        return found


@contextmanager
def hearing(head: nn.Module) -> Iterator[Heard]:
    """While this holds, what a model's output embeddings read is heard."""
    heard = Heard()
    # A forward hook is told the arguments as they are once rows have cut them to the wanted positions.
    handle = head.register_forward_hook(lambda _module, args, _output: heard.take(args[0]))
    try:
        yield heard
    finally:
        handle.remove()
