"""Files that clients upload and jobs write: the bytes, and beside them a record of what they are."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.errors import Failure
from counterpoint.server.batches.folder import new_id, read_records, write_record
from counterpoint.server.errors import ApiError

PURPOSES = ("batch",)  # of what clients upload
PREFIX = "file-"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """What is known of a file. Times are seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None

    def describe(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {"object": "file", "status": "processed", "status_details": None, **dataclasses.asdict(self)}


class Files:
    """The files of one folder. Its methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._known = {name: StoredFile(**record) for name, record in read_records(folder)}
        for path in folder.iterdir():  # what a kill left
            if path.stem not in self._known:
                path.unlink()

    def new_part(self) -> Path:
        """A place for the bytes of a file that is not yet kept."""
        return self._folder / f"{new_id('part-')}.data"

    def keep(
        self, part: Path, *, filename: str, purpose: str, expires_s: int | None = None, file_id: str | None = None
    ) -> StoredFile:
        """Keep the bytes at `part`, which goes away.

        Raises:
            Failure: there is no room; `part` is gone.
        """
        now = int(time.time())
        made = StoredFile(
            id=file_id or new_id(PREFIX), bytes=part.stat().st_size, created_at=now, filename=filename,
            purpose=purpose, expires_at=None if expires_s is None else now + expires_s,
        )  # fmt: skip
        try:
            part.replace(self._data(made.id))
            write_record(self._folder / f"{made.id}.json", dataclasses.asdict(made))
        except (OSError, Failure):
            part.unlink(missing_ok=True)
            self._data(made.id).unlink(missing_ok=True)
            raise
        with self._lock:
            self._known[made.id] = made
        return made

    def get(self, file_id: str) -> StoredFile:
        """Raises `ApiError`: there is no such file, or no longer."""
        found = self._known.get(file_id) if re.fullmatch(rf"{PREFIX}[0-9a-z]+", file_id) else None
        if found is not None and found.expires_at is not None and found.expires_at <= time.time():
            self.delete(file_id)
            found = None
        if found is None:
            raise ApiError(404, f"there is no file {file_id[:80]!r}", param="id", code="file_not_found")
        return found

    def path(self, file_id: str) -> Path:
        """Where its bytes are. Raises `ApiError` as `get` does."""
        return self._data(self.get(file_id).id)

    def all(self) -> list[StoredFile]:
        """All that have not expired, the oldest first."""
        now = time.time()
        for one in list(self._known.values()):
            if one.expires_at is not None and one.expires_at <= now:
                self.delete(one.id)
        return sorted(self._known.values(), key=lambda one: (one.created_at, one.id))

    def delete(self, file_id: str) -> None:
        """Whoever reads it reads on."""
        with self._lock:
            self._known.pop(file_id, None)
        (self._folder / f"{file_id}.json").unlink(missing_ok=True)
        self._data(file_id).unlink(missing_ok=True)

    def _data(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.data"


def synced(path: Path, data: Any) -> None:
    """Write a stream's bytes to a new file, and wait for the disk.

    Raises:
        Failure: there is no room; nothing is left of it.
    """
    try:
        with open(path, "xb") as file:
            while part := data.read(1 << 20):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Failure(f"the file can't be kept: {error.strerror}; make room in the server's folder") from None
