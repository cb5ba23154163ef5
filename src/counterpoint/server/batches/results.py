"""What a job has answered, as the two files that clients fetch: answers, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterpoint.batch.files import LineFile, open_lines
from counterpoint.batch.forms import OpenAI
from counterpoint.batch.job import key_of_line
from counterpoint.batch.journal import Journal, line_of
from counterpoint.server.batches.files import Files
from counterpoint.server.batches.record import Batch, problem


def write_results(batch: Batch, journal: Journal, source: Path, files: Files, *, tell_left: bool) -> dict[str, Any]:
    """Make a job's files, and tell what is to be noted of it. May be called again after a kill.

    Args:
        journal: what was answered.
        source: the input.
        tell_left: whether the lines that were not answered are errors, since their time is over.

    Raises:
        Failure: there is no room.
    """
    usage, parts = _Usage(), (files.new_part(), files.new_part())
    good, bad = LineFile(parts[0]), LineFile(parts[1])
    counts = [0, 0]
    try:
        for is_error, line in _lines(batch, journal, source, tell_left, usage):
            (bad if is_error else good).append(line)
            counts[is_error] += 1
        for one in (good, bad):
            one.sync()
            one.close()
        ids = [
            files.keep(
                part,
                filename=f"{batch.id}_{name}.jsonl",
                purpose="batch_output",
                expires_s=batch.output_expires_s,
                file_id=f"file-{batch.id.removeprefix('batch_')}{name[0]}",
            ).id
            if count
            else None
            for part, count, name in zip(parts, counts, ("output", "errors"))
        ]
    finally:
        for one, part in zip((good, bad), parts):
            one.close()
            part.unlink(missing_ok=True)
    return {
        "output_file_id": ids[0], "error_file_id": ids[1], "num_completed": counts[0], "num_failed": counts[1],
        "usage": usage.describe(),
    }  # fmt: skip


def _lines(
    batch: Batch, journal: Journal, source: Path, tell_left: bool, usage: _Usage
) -> Iterator[tuple[bool, bytes]]:
    form = OpenAI()
    for line in journal.lines():
        is_error = form.entry(line).is_error
        if not is_error:
            usage.add(json.loads(line)["response"]["body"].get("usage") or {})
        yield is_error, line
    if not tell_left:
        return
    said = problem("batch_expired", f"the line was not run within {batch.completion_window}; start a job with the rest")
    error = {name: said[name] for name in ("code", "message", "param")}
    with open_lines(str(source)) as lines:
        for number, text in enumerate(lines, 1):
            if text.strip() and journal.answered(number) is None:
                name = json.loads(text)["custom_id"]
                record = {"id": f"batch_req_{number}_{key_of_line(text)}", "custom_id": name, "response": None}
                yield True, line_of({**record, "error": error})


class _Usage:
    """Tokens of all answers."""

    def __init__(self) -> None:
        self._read = self._cached = self._written = 0

    def add(self, usage: dict[str, Any]) -> None:
        self._read += usage.get("prompt_tokens", usage.get("input_tokens", 0))
        self._written += usage.get("completion_tokens", usage.get("output_tokens", 0))
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        self._cached += details.get("cached_tokens", 0)

    def describe(self) -> dict[str, Any]:
        return {
            "input_tokens": self._read,
            "input_tokens_details": {"cached_tokens": self._cached},
            "output_tokens": self._written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._read + self._written,
        }
