"""What ended requests had read, so that others which begin alike read less."""

from __future__ import annotations

from dataclasses import dataclass

from counterpoint.models.rows import Rows, Snapshot

LEAST = 16  # tokens; a shorter shared beginning is read again, which costs less than waiting for it


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    rows: Rows
    ids: list[int]
    snapshot: Snapshot


class PrefixStore:
    """What ended requests had read, the least recently used forgotten first.

    Args:
        max_tokens: most tokens to keep, of all texts together.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._kept: list[_Kept] = []  # the least recently used first

    @property
    def num_tokens(self) -> int:
        """Tokens kept now."""
        return sum(len(kept.ids) for kept in self._kept)

    def keep(self, rows: Rows, row: int, ids: list[int]) -> None:
        """Keep what a row has read. Of two texts, one of which begins the other, only the longer is kept."""
        if not LEAST <= len(ids) <= self.max_tokens:
            return
        for kept in self._kept:
            if kept.rows is rows and kept.ids[: len(ids)] == ids:
                self._touch(kept)
                return
        snapshot = rows.snapshot(row, len(ids))
        if snapshot is None:
            return
        self._kept = [k for k in self._kept if not (k.rows is rows and ids[: len(k.ids)] == k.ids)]
        while self.num_tokens + len(ids) > self.max_tokens:
            self._kept.pop(0)
        self._kept.append(_Kept(rows, list(ids), snapshot))

    def find(self, rows: Rows, ids: list[int]) -> tuple[Snapshot | None, int]:
        """The kept text that begins most like `ids`, and how many tokens they share."""
        best, longest = None, 0
        for kept in self._kept:
            shared = shared_length(kept.ids, ids) if kept.rows is rows else 0
            if shared > longest:
                best, longest = kept, shared
        if best is None or longest < LEAST:
            return None, 0
        self._touch(best)
        return best.snapshot, longest

    def _touch(self, kept: _Kept) -> None:
        self._kept.remove(kept)
        self._kept.append(kept)


def shared_length(a: list[int], b: list[int]) -> int:
    """How many tokens two rows begin with in common, by halving."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
