"""What the engine needs of a model: rows of tokens that grow, fork and roll back, many in one forward.

A row is one branch of one request. Rows have lengths of their own and are counted from position 0 each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from counterpoint.contexts.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens to append to one row, and where its predictions are wanted.

    Args:
        row: the row's handle.
        ids: one token id or more.
        columns: indices into `ids` after which logits are wanted; empty for none.
        scratch: this many of the last ids are read and then forgotten.
        inputs: what a model's processor made of the ids, pictures and all, where they are no plain text; for a row that is
            empty, with the last column alone.
    """

    row: int
    ids: Sequence[int]
    columns: Sequence[int] = (-1,)
    scratch: int = 0
    inputs: Inputs | None = None


#: of each layer the keys and values, (H, length, D); None for a layer that keeps none, since it reads another's
Snapshot = list[tuple[Tensor, Tensor] | None]


class Rows(ABC):
    """The rows of one model. Handles are never used again after `free`."""

    #: Whether a row can be fed in parts of several tokens, forked at an earlier length and cropped.
    can_crop: bool
    #: Whether `forward` reads all feeds together, and none of them where it fails.
    is_joint: bool
    #: Most rows that read one token each in one forward and come out as each would alone, to the bit.
    most_alike: int = 1

    @abstractmethod
    def add(self) -> int:
        """A new empty row."""

    @abstractmethod
    def fork(self, row: int, length: int | None = None) -> int:
        """A new row that begins as the first `length` tokens of `row` (None: all of them)."""

    @abstractmethod
    def crop(self, row: int, length: int) -> None:
        """Forget the tokens of `row` from position `length` on."""

    @abstractmethod
    def free(self, row: int) -> None:
        """Give the row's memory back."""

    @abstractmethod
    def length(self, row: int) -> int:
        """How many tokens the row holds."""

    @abstractmethod
    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        """Append to the rows, in one forward where the model can.

        Returns:
            (M, V) logits in the model's dtype: the wanted columns of the first feed, then of the second, and so on.
        """

    def expect(self, num_steps: int, num_rounds: int) -> None:
        """Be told how much is to come: at most `num_steps` tokens of the texts being written, then of as many others,
        `num_rounds` times in all. Decides what is worth preparing; never the result."""
        return

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """How many rows there are."""

    def snapshot(self, row: int, length: int) -> Snapshot | None:
        """The first `length` tokens of a row, to begin others with after it is freed; None where rows can't do this."""
        return None

    def add_from(self, snapshot: Snapshot, length: int) -> int:
        """A new row that begins with the first `length` tokens of a snapshot of these rows."""
        raise NotImplementedError(f"{type(self).__name__} takes no snapshots")

    @property
    def num_bytes(self) -> int:
        """Memory of the buffers of ours; 0 where the rows keep caches of transformers."""
        return 0
