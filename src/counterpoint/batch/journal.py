"""What a job has answered already: its output file, and a manifest beside it that says whose answers they are."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from counterpoint.batch.files import LineFile, replace_lines
from counterpoint.errors import Failure, UsageError

FORMAT = "counterpoint-batch/1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an output.

    Args:
        number: of the line in the input that it answers, from 1.
        key: a hash of everything that the answer depends on, 16 hexadecimal digits.
        is_error: whether it says what is wrong, in place of an answer.
    """

    number: int
    key: str
    is_error: bool


class Journal:
    """The output of a job. It takes memory of 9 bytes for each line of the input.

    Args:
        path: the output; its manifest is `PATH.manifest.json`.
        identity: what all answers have in common (model, options, format, shard), as JSON values.
        facts: what else the manifest shall say.
        read: an entry from a line of the output; raises `ValueError` for one that is not this job's.
        retry_errors: take errors out first, so that their lines are run again.

    Raises:
        UsageError: the output is of another job, or of none.
        Failure: it can't be read or written.
    """

    def __init__(
        self,
        path: str,
        *,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        read: Callable[[bytes], Entry],
        retry_errors: bool = False,
    ) -> None:
        self.path, self.num_answers, self.num_errors = path, 0, 0
        self._keys = array("Q")  # of each line of the input; 0 is not answered
        self._read = read
        was_there = os.path.exists(path) and os.path.getsize(path) > 0
        self._check_manifest(was_there, dict(identity), dict(facts))
        self._file = LineFile(path)
        try:
            if retry_errors and any(self._entry(line).is_error for line in self._file.lines()):
                replace_lines(path, (line for line in self._file.lines() if not self._entry(line).is_error))
                self._file.close()
                self._file = LineFile(path)
            for line in self._file.lines():
                self._note(self._entry(line))
        except BaseException:
            self._file.close()
            raise

    def answered(self, number: int) -> str | None:
        """The key under which a line of the input was answered; None where it was not."""
        key = self._keys[number] if number < len(self._keys) else 0
        return f"{key:016x}" if key else None

    def add(self, entry: Entry, line: bytes) -> None:
        """Append an answer; when this returns it outlives the process."""
        self._file.append(line)
        self._note(entry)

    def lines(self) -> Iterator[bytes]:
        """What has been answered, line by line."""
        return self._file.lines()

    def sync(self) -> None:
        """Wait until the answers outlive the machine too."""
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _note(self, entry: Entry) -> None:
        missing = entry.number + 1 - len(self._keys)
        if missing > 0:
            self._keys.frombytes(bytes(8 * missing))
        if self._keys[entry.number]:
            raise UsageError(f"{self.path!r} answers line {entry.number} twice; give another output file")
        self._keys[entry.number] = int(entry.key, 16) or 1
        self.num_errors += entry.is_error
        self.num_answers += not entry.is_error

    def _entry(self, line: bytes) -> Entry:
        try:
            return self._read(line)
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{self.path!r} has a line that is no answer of this job: {line[:60]!r}; give another output file"
            ) from None

    def _check_manifest(self, was_there: bool, identity: dict[str, Any], facts: dict[str, Any]) -> None:
        path = Path(f"{self.path}.manifest.json")
        written = {"format": FORMAT, "identity": identity, **facts}
        if not path.exists():
            if was_there:
                raise UsageError(f"{self.path!r} exists and is no output of a job (no {path.name}); give another name")
            part = path.with_suffix(".part")
            try:
                part.write_text(json.dumps(written, indent=1, sort_keys=True))
                part.replace(path)
            except OSError as error:
                raise Failure(
                    f"{str(path)!r} can't be written: {error.strerror}; make room or give another place"
                ) from None
            return
        try:
            earlier = json.loads(path.read_text())
            known = dict(earlier["identity"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UsageError(f"the manifest {str(path)!r} can't be read ({error}); give another output file") from None
        told = list(_differing(known, identity))
        if told:
            raise UsageError(
                f"{self.path!r} holds answers of another job: {'; '.join(told)[:400]}; give another output file, or the "
                "options it was begun with"
            )


def _differing(known: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """What differs, by name: of options within options, those alone."""
    for name in sorted({*known, *own}):
        was, now = known.get(name), own.get(name)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differing(was, now)
        else:
            yield f"{name} was {was!r:.80} and is {now!r:.80}"


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON. Half a surrogate, which a line of the input may hold, is escaped."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="backslashreplace")


class Piped:
    """A journal that is a pipe: answers go out as they come, and nothing is known of earlier ones."""

    path = "-"

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.num_answers = self.num_errors = 0

    def answered(self, number: int) -> str | None:
        return None

    def add(self, entry: Entry, line: bytes) -> None:
        self._stream.write(line + b"\n")
        self._stream.flush()
        self.num_errors += entry.is_error
        self.num_answers += not entry.is_error

    def sync(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()
