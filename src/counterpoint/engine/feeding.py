"""Which rows go through the model together, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from counterpoint.engine.reader import Reader
from counterpoint.models.hidden import hearing
from counterpoint.models.rows import Feed, Rows

MAX_CHUNK = 2048  # prompt tokens of one row in one forward: bounds the mask, which is their number squared
MOST_PADDED = 8  # columns; narrower rows are padded to it, for a forward costs about the same up to there

Part = tuple[Reader, int]  # a row, and how many of its tokens are read


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes in which rows are read. In less than float32 a result depends on them in its last bits.

    Args:
        block: prompts are read in blocks that end at multiples of this many tokens, each in a forward of its own, so that
            a prompt is read in the same way whatever of it was kept and whatever else is read. None: as it suits.
        is_fixed: rows that write are read together only where each comes out as it would alone.
    """

    block: int | None = None
    is_fixed: bool = False

    def most_together(self, rows: Rows) -> int | None:
        """Most rows that write in one forward; None is any number."""
        return max(1, rows.most_alike) if self.is_fixed else None


def feed(parts: Sequence[Part], shapes: Shapes = Shapes()) -> dict[Reader, Exception]:  # noqa: B008, a frozen value
    """Read these parts, those of one model in as few forwards as suits them; returns the rows that failed."""
    failed: dict[Reader, Exception] = {}
    if not parts:
        return failed
    every = {id(reader.rows): reader.rows for reader, _ in parts}.values()
    for rows in every:
        own = list(parts) if len(every) == 1 else [part for part in parts if part[0].rows is rows]
        if shapes.block:
            for part in [part for part in own if part[0].is_reading_prompt]:
                own.remove(part)
                failed.update(_by_blocks(rows, part, shapes.block))
        for batch in _batches(own, shapes.most_together(rows)) if rows.is_joint else [[part] for part in own]:
            failed.update(_forward_or_halve(rows, batch))
    return failed


def _by_blocks(rows: Rows, part: Part, block: int) -> list[tuple[Reader, Exception]]:
    reader, left = part
    while left and reader.todo:
        # What can't be read in parts is read whole.
        size = reader.num_next or min(left, block - len(reader.history) % block)
        if failed := _forward_or_halve(rows, [(reader, size)]):
            return failed
        left -= size
    return []


def portions(reading: list[Reader], budget: int | None, block: int | None = None) -> list[Part]:
    """How much of each prompt is read now. Half of the budget is the oldest reader's and the rest goes to the shortest
    first, so that a long prompt does not hold up short ones, nor many short ones a long one. With `block`, what does not
    reach the end of a prompt ends at a multiple of it, and the oldest reads one block at least."""
    if not reading:
        return []
    left = sum(len(reader.todo) for reader in reading) if budget is None else budget
    sizes = dict.fromkeys(reading, 0)
    oldest, shortest = reading[0], sorted(reading, key=lambda reader: len(reader.todo))
    for reader, most in [(oldest, -(-left // 2)), *((reader, left) for reader in shortest)]:
        # What can't be read in parts is read whole, whatever the budget.
        room = reader.num_next or min(len(reader.todo), MAX_CHUNK)
        more = min(room - sizes[reader], most, left) if reader.num_next is None else room - sizes[reader]
        sizes[reader], left = sizes[reader] + max(more, 0), left - max(more, 0)
    if block is not None:
        for reader, size in sizes.items():
            least = block if reader is oldest else 0
            sizes[reader] = _up_to_a_block(reader, max(size, least), block) if reader.num_next is None else size
    return [(reader, size) for reader, size in sizes.items() if size > 0]


def _up_to_a_block(reader: Reader, size: int, block: int) -> int:
    begin, end = len(reader.history), len(reader.history) + size
    return len(reader.todo) if size >= len(reader.todo) else max(0, end // block * block - begin)


def _batches(parts: list[Part], most: int | None = None) -> list[list[Part]]:
    """Rows of like width go in one forward, so that padding stays small: all that write, then those that read. With
    `most`, so many rows at most, and only such as read one token."""
    widths = {part[0]: _width(part) for part in parts}
    if most is None and parts and max(widths.values()) <= MOST_PADDED:
        return [parts]
    batches: list[list[Part]] = []
    for part in sorted(parts, key=lambda part: widths[part[0]]):
        width = widths[part[0]]
        if most is not None and batches and (width > 1 or len(batches[-1]) >= most):
            batches.append([part])
        elif batches and width <= max(MOST_PADDED, 2 * widths[batches[-1][0][0]]):
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
            feeds.append(Feed(reader.row, ids, columns=(), inputs=reader.opening))
            continue
        if reader.opening is not None:  # suffixes are read after it
            feeds.append(Feed(reader.row, ids, inputs=reader.opening))
            wanted.append(reader)
            continue
        # The first suffix rides along with the tokens; it is read after them and forgotten.
        suffix = reader.suffixes[0] if reader.suffixes else ()
        columns = (size - 1, size + len(suffix) - 1) if suffix else range(size - 1, size + len(reader.guess))
        feeds.append(Feed(reader.row, [*ids, *suffix, *reader.guess], columns=columns, scratch=len(suffix)))
        wanted += [reader] * len(columns)
    predicted, hidden = _predict(
        rows, feeds, next((reader.head for reader, _ in parts if reader.head is not None), None)
    )
    for reader, size in parts:
        reader.history += reader.todo[:size]
        reader.todo = reader.todo[size:]
    for number, (reader, logits) in enumerate(zip(wanted, predicted.unbind())):
        if hidden is not None and reader.head is not None:
            logits.hidden = hidden[number]
        (reader.ahead if reader.guess and reader.logits else reader.logits).append(logits)
    done = list(dict.fromkeys(wanted))
    for reader in done:
        if len(reader.history) == reader.num_prompt and not reader.suffixes:
            reader.first_logits = reader.logits[0]
    return done


def _predict(rows: Rows, feeds: Sequence[Feed], head: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """(M, V) logits, and the (M, H) states that the head made them of, where it is given."""
    if head is None:
        return rows.forward(feeds), None
    with hearing(head) as heard:
        predicted = rows.forward(feeds)
    return predicted, heard.rows(len(predicted))


def _forward_suffixes(rows: Rows, reader: Reader) -> list[tuple[Reader, Exception]]:
    try:
        # The first was read along with the tokens, but for after pictures.
        for suffix in reader.suffixes[len(reader.logits) - 1 :]:
            reader.logits.append(rows.forward([Feed(reader.row, suffix, scratch=len(suffix))])[0])
    except Exception as error:  # as above
        return [(reader, error)]
    return []
