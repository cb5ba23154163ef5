"""Which rows go through the model together, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence

from counterpoint.engine.reader import Reader
from counterpoint.models.rows import Feed, Rows

MAX_CHUNK = 2048  # prompt tokens of one row in one forward: bounds the mask, which is their number squared
MOST_PADDED = 8  # columns; narrower rows are padded to it, for a forward costs about the same up to there

Part = tuple[Reader, int]  # a row, and how many of its tokens are read


def feed(parts: Sequence[Part]) -> dict[Reader, Exception]:
    """Read these parts, those of one model in as few forwards as suits them; returns the rows that failed."""
    failed: dict[Reader, Exception] = {}
    for rows in {id(reader.rows): reader.rows for reader, _ in parts}.values():
        own = [part for part in parts if part[0].rows is rows]
        for batch in _batches(own) if rows.is_joint else [[part] for part in own]:
            failed.update(_forward_or_halve(rows, batch))
    return failed


def portions(reading: list[Reader], budget: int | None) -> list[Part]:
    """How much of each prompt is read now. Half of the budget is the oldest reader's and the rest goes to the shortest
    first, so that a long prompt does not hold up short ones, nor many short ones a long one."""
    if not reading:
        return []
    left = sum(len(reader.todo) for reader in reading) if budget is None else budget
    sizes = dict.fromkeys(reading, 0)
    oldest, shortest = reading[0], sorted(reading, key=lambda reader: len(reader.todo))
    for reader, most in [(oldest, -(-left // 2)), *((reader, left) for reader in shortest)]:
        # A row that can't be read in parts is read whole, whatever the budget.
        room = min(len(reader.todo), MAX_CHUNK) if reader.rows.can_crop else len(reader.todo)
        more = min(room - sizes[reader], most, left) if reader.rows.can_crop else room - sizes[reader]
        sizes[reader], left = sizes[reader] + max(more, 0), left - max(more, 0)
    return [(reader, size) for reader, size in sizes.items() if size > 0]


def _batches(parts: list[Part]) -> list[list[Part]]:
    """Rows of like width go in one forward, so that padding stays small: all that write, then those that read."""
    batches: list[list[Part]] = []
    for part in sorted(parts, key=_width):
        if batches and _width(part) <= max(MOST_PADDED, 2 * _width(batches[-1][0])):
            batches[-1].append(part)
        else:
            batches.append([part])
    return batches


def _width(part: Part) -> int:
    return part[1] + (len(part[0].suffixes[0]) if part[0].suffixes else 0) + len(part[0].guess)


def _forward_or_halve(rows: Rows, parts: list[Part]) -> list[tuple[Reader, Exception]]:
    """Feed the rows; a forward that fails is tried again in halves, which leaves those that fail by themselves."""
    try:
        readers = _forward(rows, parts)
    except Exception as error:  # of whatever kind: it ends one request and must not end the others
        if len(parts) == 1:
            return [(parts[0][0], error)]
        middle = len(parts) // 2
        return _forward_or_halve(rows, parts[:middle]) + _forward_or_halve(rows, parts[middle:])
    return [failure for reader in readers for failure in _forward_suffixes(rows, reader)]


def _forward(rows: Rows, parts: list[Part]) -> list[Reader]:
    """Feed the rows; returns the readers that have nothing left to read."""
    feeds, wanted = [], []
    for reader, size in parts:
        ids = reader.todo[:size]
        if size < len(reader.todo):
            feeds.append(Feed(reader.row, ids, columns=()))
            continue
        # The first suffix rides along with the tokens; it is read after them and forgotten.
        suffix = reader.suffixes[0] if reader.suffixes else ()
        columns = (size - 1, size + len(suffix) - 1) if suffix else range(size - 1, size + len(reader.guess))
        feeds.append(Feed(reader.row, [*ids, *suffix, *reader.guess], columns=columns, scratch=len(suffix)))
        wanted += [reader] * len(columns)
    predicted = rows.forward(feeds)
    for reader, size in parts:
        reader.history += reader.todo[:size]
        reader.todo = reader.todo[size:]
    for reader, logits in zip(wanted, predicted):
        (reader.ahead if reader.guess and reader.logits else reader.logits).append(logits)
    return list(dict.fromkeys(wanted))


def _forward_suffixes(rows: Rows, reader: Reader) -> list[tuple[Reader, Exception]]:
    try:
        for suffix in reader.suffixes[1:]:
            reader.logits.append(rows.forward([Feed(reader.row, suffix, scratch=len(suffix))])[0])
    except Exception as error:  # as above
        return [(reader, error)]
    return []
