"""The folder of a server's files and jobs, and how its small records are written."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from counterpoint.batch.files import lock
from counterpoint.errors import Failure, UsageError


class DataFolder:
    """One server's folder, while it runs.

    Args:
        path: made where it is missing.

    Raises:
        UsageError: it can't be written, or another server has it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files, self.batches = self.path / "files", self.path / "batches"
        try:
            for folder in (self.files, self.batches):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[bytes] = open(self.path / "lock", "ab")  # open as long as this object is
        except OSError as error:
            raise UsageError(f"the folder {str(path)!r} can't be used: {error.strerror}; give another one") from None
        if not lock(self._lock):
            self._lock.close()
            raise UsageError(f"the folder {str(path)!r} belongs to a server that runs; end it, or give another folder")

    def close(self) -> None:
        self._lock.close()


def new_id(prefix: str) -> str:
    """A name that sorts by its time."""
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(4)}"


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Put a record in its place at once, so that it outlives the machine.

    Raises:
        Failure: it can't be written; what was there is as it was.
    """
    part = path.with_suffix(".part")
    try:
        with open(part, "w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failure(f"{path.name} can't be written: {error.strerror}; make room in the server's folder") from None


def read_records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a folder with their names, the oldest first. One that can't be read is left out."""
    for path in sorted(folder.glob("*.json")):
        if "." in path.stem:  # a manifest
            continue
        try:
            yield path.stem, json.loads(path.read_text())
        except (OSError, ValueError):
            continue
