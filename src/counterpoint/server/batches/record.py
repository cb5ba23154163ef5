"""What is known of a job, as it stands on disk and as OpenAI's object."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OVER = frozenset({"completed", "failed", "expired", "cancelled"})
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PREFIX = "batch_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One job. Times are seconds since 1970.

    Args:
        total: lines of its input, once they have been checked.
        num_completed, num_failed: lines that were answered, and those that ended in an error.
        errors: why it failed, line by line.
        output_expires_s: how long its output is kept; None is until it is deleted.
    """

    id: str
    input_file_id: str
    endpoint: str
    completion_window: str
    created_at: int
    expires_at: int
    model: str
    status: str = "validating"
    metadata: Mapping[str, str] | None = None
    output_expires_s: int | None = None
    total: int = 0
    num_completed: int = 0
    num_failed: int = 0
    errors: tuple[Mapping[str, Any], ...] = ()
    usage: Mapping[str, Any] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def describe(self) -> dict[str, Any]:
        """OpenAI's object."""
        fields = dataclasses.asdict(self)
        for name in ("output_expires_s", "total", "num_completed", "num_failed"):
            del fields[name]
        counts = {"total": self.total, "completed": self.num_completed, "failed": self.num_failed}
        errors = {"object": "list", "data": list(self.errors)} if self.errors else None
        return {"object": "batch", **fields, "errors": errors, "request_counts": counts}


def seconds_of(window: str) -> int | None:
    """Seconds of a completion window such as `24h`; None where it is none."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", window)
    return None if found is None else int(found[1]) * UNITS[found[2]]


def problem(code: str, message: str, *, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    """One of a job's errors, as OpenAI words it."""
    return {"code": code, "message": message, "line": line, "param": param}
