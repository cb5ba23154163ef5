"""A job's input, looked at as a whole before its first line is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from counterpoint.batch.files import open_lines
from counterpoint.batch.forms import OpenAI, error_of
from counterpoint.errors import UsageError
from counterpoint.server.batches.record import problem

MOST_NAMED = 100  # broken lines that are told one by one


def check_input(path: Path, endpoint: str) -> tuple[int, list[dict[str, Any]]]:
    """How many requests a file holds, and what is wrong with its lines.

    Raises:
        PromptError: it can't be read.
    """
    form, total, num_wrong, told = OpenAI(), 0, 0, []
    with open_lines(str(path)) as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            total += 1
            try:
                url = form.read(text, number)["url"]
                if url != endpoint:
                    raise UsageError(
                        f"url is {url!r} in a job for {endpoint!r}; give each endpoint its own", param="url"
                    )
            except UsageError as error:
                num_wrong += 1
                said = error_of(error)
                if num_wrong <= MOST_NAMED:
                    told.append(problem(said["code"], said["message"], line=number, param=said["param"]))
    if num_wrong > MOST_NAMED:
        told.append(problem("too_many_errors", f"{num_wrong} lines are broken; the first {MOST_NAMED} are named"))
    if not total:
        told.append(problem("empty_file", "the file holds no line; give one request a line"))
    return total, told
