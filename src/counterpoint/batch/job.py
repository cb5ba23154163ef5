"""A job: every line of an input answered once, whatever kills it on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from counterpoint.batch.journal import Entry, Journal, line_of
from counterpoint.errors import UsageError

SYNC_S = 5.0  # between waits for the disk


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of an input: the lines whose number leaves `number - 1` when divided by `count`.

    Raises:
        UsageError: the number is not from 1 to `count`.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(
                f"the shard is {self.number}/{self.count}; use 1/{self.count} to {self.count}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `3/8`."""
        number, slash, count = text.partition("/")
        if not (slash and number.strip().isdigit() and count.strip().isdigit()):
            raise UsageError(f"the shard is {text!r}; use 3/8 for the third of eight parts")
        return cls(int(number), int(count))

    def has(self, line: int) -> bool:
        return line % self.count == self.number % self.count


@dataclass(frozen=True, slots=True)
class Task:
    """One line to answer.

    Args:
        number: of the line, from 1. key: see `Entry`.
        asked: what the form read from the line.
    """

    number: int
    key: str
    asked: Any


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a task: `answer` in the form's own terms, or what is wrong."""

    task: Task
    answer: Any = None
    error: Exception | None = None


class Form(Protocol):
    """How lines of an input and of its output look."""

    name: str

    def read(self, text: bytes, number: int) -> Any:
        """What a line asks. Raises `UsageError`."""

    def skip(self, text: bytes) -> None:
        """Be told of a line that was answered earlier."""

    def record(self, task: Task, result: Result) -> dict[str, Any]:
        """The line of the output."""

    def entry(self, line: bytes) -> Entry:
        """What a line of the output answers. Raises `ValueError`, `KeyError` or `TypeError` for another kind of line."""


#: takes tasks as it has room for them, and gives their results in any order
Runner = Callable[[Iterator[Task]], Iterable[Result]]


@dataclass(slots=True)
class Progress:
    """How far a job is. `total` is the number of lines in all, None where that is not known."""

    total: int | None
    num_earlier: int = 0
    num_answers: int = 0
    num_errors: int = 0
    num_tokens: int = 0
    began: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def num_now(self) -> int:
        return self.num_answers + self.num_errors

    @property
    def rate(self) -> float:
        """Lines a second since this run began."""
        return self.num_now / max(time.monotonic() - self.began, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at this rate."""
        if self.total is None or not self.num_now:
            return None
        return (self.total - self.num_earlier - self.num_now) / self.rate


def run_job(
    lines: Iterable[bytes],
    form: Form,
    runner: Runner,
    journal: Journal,
    *,
    shard: Shard | None = None,
    total: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Answer every line that is not answered yet, and append each answer as it comes.

    Args:
        lines: of the input; read as the runner asks for them.
        total: lines in all, for the time left.

    Raises:
        UsageError: a line is not the one that was answered under its number, so the input has changed.
        Failure: the output can't be written.
    """
    progress, shard = Progress(total), shard or Shard()

    def keep(result: Result) -> None:
        is_error = result.error is not None
        record = form.record(result.task, result)
        journal.add(Entry(result.task.number, result.task.key, is_error), line_of(record))
        progress.num_errors += is_error
        progress.num_answers += not is_error
        if on_progress is not None:
            on_progress(progress)

    def tasks() -> Iterator[Task]:
        for number, text in enumerate(lines, 1):
            if not text.strip() or not shard.has(number):
                continue
            key, earlier = key_of_line(text), journal.answered(number)
            if earlier is not None:
                if earlier != key:
                    raise UsageError(
                        f"line {number} of the input is not the one that {journal.path!r} has answered; give another output "
                        "file for another input"
                    )
                form.skip(text)
                progress.num_earlier += 1
                continue
            try:
                asked = form.read(text, number)
            except UsageError as error:
                keep(Result(Task(number, key, None), error=error))
                continue
            yield Task(number, key, asked)

    synced = time.monotonic()
    try:
        for result in runner(tasks()):
            keep(result)
            if time.monotonic() - synced > SYNC_S:
                journal.sync()
                synced = time.monotonic()
    finally:
        journal.sync()
    return progress


def key_of_line(text: bytes) -> str:
    """16 hexadecimal digits that tell a line's content from others; white space and the order of fields don't count."""
    try:
        text = json.dumps(json.loads(text), sort_keys=True).encode()
    except (ValueError, RecursionError):
        text = text.strip()
    return hashlib.sha256(text).hexdigest()[:16].replace("0" * 16, "0" * 15 + "1")
