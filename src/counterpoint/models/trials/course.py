"""The steps of a trial: rows are read, continued, forked and cut back, at the lengths where something begins to act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from counterpoint.models.rows import Feed, Rows
from counterpoint.models.trials.texts import Texts, TokenIds

BEFORE, AFTER = 1, 2  # lengths looked at before and after one at which something begins to act
FAR = 16  # tokens after the last of them, through which what has begun goes on
SHORT = 3  # tokens of the row beside the long one, to begin with


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows predicted something else than the model without a cache.

    Args:
        length: of the row, in tokens.
        when: what had just been done.
    """

    length: int
    when: str


def grow(rows: Rows, texts: Texts, stops: Sequence[Sequence[int]]) -> Difference | None:
    """Read two texts side by side, the long one in leaps to each run of `stops` and token by token within.

    Returns the first difference from the model itself.
    """
    long, short = rows.add(), rows.add()
    held_long, held_short = 0, 0
    for run in stops:
        for stop in run:
            new = SHORT if not held_short else 1 if stop == held_long + 1 else 2
            feeds = [
                Feed(long, texts.long[held_long:stop]),
                Feed(short, texts.short[held_short : held_short + new]),
            ]
            when = (
                "read" if not held_long else "continued by a token" if stop == held_long + 1 else "continued by several"
            )
            logits = rows.forward(feeds)
            held_long, held_short = stop, held_short + new
            for got, text, length in ((logits[0], texts.long, held_long), (logits[1], texts.short, held_short)):
                if not texts.agrees(got, text[:length], of=text):
                    return Difference(length, when)
    rows.free(long)
    rows.free(short)
    return None


def go_on(rows: Rows, texts: Texts, start: int, longest: int) -> Difference | None:
    """Read two texts up to `start`, where everything has begun to act, and on by single tokens and by ever more of them."""
    if longest <= start:
        return None
    both = (rows.add(), texts.long), (rows.add(), texts.short)
    rows.forward([Feed(row, text[:start], columns=()) for row, text in both])
    held, new = start, 1
    while held < longest:
        end = min(held + new, longest)
        logits = rows.forward([Feed(row, text[held:end], columns=range(end - held)) for row, text in both])
        asked = [(text, length) for _, text in both for length in range(held + 1, end + 1)]
        for got, (text, length) in zip(logits, asked, strict=True):
            if not texts.agrees(got, text[:length], of=text):
                return Difference(length, "continued by a token" if new == 1 else "continued by several")
        held, new = end, new if held == start else 2 * new
    for row, _ in both:
        rows.free(row)
    return None


def leap(rows: Rows, texts: Texts, stops: Sequence[Sequence[int]]) -> Difference | None:
    """Read past each run of `stops` at once; and up to it, then all of it in one forward."""
    for run in stops:
        row = rows.add()
        if not texts.agrees(rows.forward([Feed(row, texts.long[: run[-1]])])[0], texts.long[: run[-1]], of=texts.long):
            return Difference(run[-1], "read")
        rows.free(row)
        row, held = rows.add(), max(run[0] - 2, 1)
        rows.forward([Feed(row, texts.long[:held], columns=())])
        ids = texts.long[held : run[-1]]
        for at, got in enumerate(rows.forward([Feed(row, ids, columns=range(len(ids)))])):
            if held + at + 1 in run and not texts.agrees(got, texts.long[: held + at + 1], of=texts.long):
                return Difference(held + at + 1, "continued by several")
        rows.free(row)
    return None


def cut(rows: Rows, texts: Texts, stops: Sequence[Sequence[int]]) -> Difference | None:
    """Fork rows at an earlier length, cut them back, read and forget, and go on otherwise, at each run of `stops`."""
    for run in stops:
        kept, end = max(run[0] - 4, 1), run[-1]
        row = rows.add()
        rows.forward([Feed(row, texts.long[:end])])
        other = rows.fork(row, kept)
        branched = texts.long[:kept] + texts.short[:2]
        found = _step(rows, texts, other, branched, kept, "forked")
        if found is None:
            rows.crop(row, kept)
            found = _step(rows, texts, row, branched, kept, "cut back")
        if found is None:
            rows.forward([Feed(row, texts.long[:2], scratch=2)])
            again = branched + texts.short[2:3]
            found = _step(rows, texts, row, again, len(branched), "forgotten")
        if found is not None:
            return found
        rows.free(row)
        rows.free(other)
    return None


def _step(rows: Rows, texts: Texts, row: int, ids: TokenIds, held: int, when: str) -> Difference | None:
    logits = rows.forward([Feed(row, ids[held:])])
    return None if texts.agrees(logits[0], ids) else Difference(len(ids), when)


def runs(marks: Sequence[int], longest: int) -> list[list[int]]:
    """The lengths to stop at: a few at the start, and those about each mark, in runs of neighbours."""
    stops = {4, 5, 6} | {mark + by for mark in marks for by in range(-BEFORE, AFTER + 1)}
    found: list[list[int]] = []
    for stop in sorted(stop for stop in stops if 4 <= stop <= longest):
        if found and stop == found[-1][-1] + 1:
            found[-1].append(stop)
        else:
            found.append([stop])
    return found
