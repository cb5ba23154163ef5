"""Answers kept on disk, so that a run that was killed computes nothing twice. Knows nothing of models or tasks."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterpoint.errors import UsageError


def key_of(*parts: Any) -> str:
    """A key for an answer: a hash of everything that it depends on, as JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Store:
    """Keys to JSON values in one SQLite file; what was put is there after a kill.

    Args:
        path: the file; made where it is missing. None keeps the answers in memory.

    Raises:
        UsageError: the file can't be opened as a store.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.num_reused = self.num_computed = 0
        self._counted: set[str] = set()
        try:
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(":memory:" if path is None else path)
            self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            raise UsageError(f"the answers in {str(path)!r} can't be opened: {error}; give another folder") from None

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The answers that are there. What an earlier run put is counted as reused, once."""
        found = {}
        for key in dict.fromkeys(keys):
            row = self._file.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = json.loads(row[0])
        earlier = found.keys() - self._counted
        self.num_reused += len(earlier)
        self._counted |= earlier
        return found

    def put(self, answers: Mapping[str, Any]) -> None:
        """Keep answers; counted as computed."""
        rows = [(key, json.dumps(value)) for key, value in answers.items()]
        with self._file:
            self._file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        self.num_computed += len(rows)
        self._counted |= answers.keys()

    def close(self) -> None:
        self._file.close()
