"""Which row already holds the beginning of another one, so that it is read once."""

from __future__ import annotations

from collections.abc import Iterable

from counterpoint.engine.sequence import Reader

LEAST = 16  # tokens; a shorter shared beginning is read again, which costs less than waiting for it


def find_source(reader: Reader, earlier: Iterable[Reader]) -> None:
    """Let `reader` copy from the earlier reader that shares most with it, if that is worth a copy."""
    if not reader.rows.can_crop:
        return
    best, longest = None, LEAST - 1
    for other in earlier:
        if other.rows is not reader.rows or not other.alive:
            continue
        # The last token is always read, since its prediction is wanted.
        shared = shared_length([*other.history, *other.todo], reader.todo[:-1])
        if shared > longest:
            best, longest = other, shared
    if best is not None:
        reader.source, reader.shared = best, longest


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
