"""The two forms of lines: our own, and OpenAI's batch format."""

from __future__ import annotations

import contextlib
import hashlib
import json
from array import array
from collections.abc import Mapping
from typing import Any

from counterpoint.batch.job import Result, Task
from counterpoint.batch.journal import Entry
from counterpoint.batch.lines import Line, read_line, read_object
from counterpoint.errors import CounterpointError, UsageError

URLS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")


class Lines:
    """Lines of prompts, see `batch.lines`; the answer is a list of completions as JSON objects.

    Out comes {"line": 3, "id": ..., "key": ..., "completions": [...]}, or "error" in their place.
    """

    name = "lines"

    def read(self, text: bytes, number: int) -> Line:
        return read_line(text, number)

    def skip(self, text: bytes) -> None:
        return

    def record(self, task: Task, result: Result) -> dict[str, Any]:
        head: dict[str, Any] = {"line": task.number, "key": task.key}
        if task.asked is not None and task.asked.id is not None:
            head["id"] = task.asked.id
        if result.error is not None:
            return {**head, "error": error_of(result.error)}
        return {**head, "completions": result.answer}

    def entry(self, line: bytes) -> Entry:
        record = json.loads(line)
        return Entry(_number(record["line"]), _key(record["key"]), "completions" not in record)


class OpenAI:
    """OpenAI's batch format: {"custom_id", "method", "url", "body"}; the answer is a status and a body.

    Out comes {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}, as OpenAI and vLLM have it.
    The id holds the number and the key of the line. Lines that were never sent have no response.
    """

    name = "openai"

    def __init__(self) -> None:
        self._seen = _Seen()
        self._names: dict[int, str] = {}  # of lines that can't be run

    def skip(self, text: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            self._is_new(json.loads(text)["custom_id"])

    def _is_new(self, custom_id: str) -> bool:
        return self._seen.add(custom_id.encode(errors="surrogatepass"))

    def read(self, text: bytes, number: int) -> Mapping[str, Any]:
        """Raises `UsageError` where the line can't be sent."""
        wanted = 'an object; write {"custom_id": ..., "method": "POST", "url": ..., "body": {...}}'
        record = read_object(text, wanted)
        for name in record:
            if name not in ("custom_id", "method", "url", "body"):
                raise UsageError(f"unknown field {name!r}; known are custom_id, method, url, body", param=name)
        custom_id = record.get("custom_id")
        if not isinstance(custom_id, str) or not custom_id:
            raise UsageError(f"custom_id is {custom_id!r:.40}; give each line a text of its own", param="custom_id")
        self._names[number] = custom_id
        if record.get("method", "POST") != "POST":
            raise UsageError(f"method is {record['method']!r:.40}; use POST", param="method")
        if record.get("url") not in URLS:
            raise UsageError(f"url is {record.get('url')!r:.60}; use one of {', '.join(URLS)}", param="url")
        body = record.get("body")
        if not isinstance(body, dict):
            raise UsageError(f"body is {body!r:.40}; give the request as an object", param="body")
        if body.get("stream"):
            raise UsageError("stream is true, and a job has nobody to stream to; leave it out", param="stream")
        if not self._is_new(custom_id):
            raise UsageError(
                f"custom_id {custom_id!r:.60} stands on an earlier line too; give each its own", param="custom_id"
            )
        del self._names[number]
        return record

    def record(self, task: Task, result: Result) -> dict[str, Any]:
        custom_id = self._names.pop(task.number, None) if task.asked is None else task.asked["custom_id"]
        record: dict[str, Any] = {"id": f"batch_req_{task.number}_{task.key}", "custom_id": custom_id}
        if result.answer is None:
            return {**record, "response": None, "error": error_of(result.error)}
        status, request_id, body = result.answer
        error = None if result.error is None else error_of(result.error)
        return {**record, "response": {"status_code": status, "request_id": request_id, "body": body}, "error": error}

    def entry(self, line: bytes) -> Entry:
        record = json.loads(line)
        prefix, number, key = record["id"].rsplit("_", 2)
        if prefix != "batch_req":
            raise ValueError(record["id"])
        return Entry(_number(int(number)), _key(key), record["error"] is not None)


class _Seen:
    """A set of names that takes 16 to 32 bytes for each, by 8 bytes of its hash; a set of numbers takes a hundred."""

    def __init__(self) -> None:
        self._table, self._count = array("Q", bytes(8 * 1024)), 0  # 0 is an empty place

    def add(self, name: bytes) -> bool:
        """Whether it is new."""
        if 2 * self._count >= len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for number in old:
                if number:
                    self._table[self._place(number)] = number
        number = int.from_bytes(hashlib.sha256(name).digest()[:8]) or 1
        place = self._place(number)
        if self._table[place]:
            return False
        self._table[place] = number
        self._count += 1
        return True

    def _place(self, number: int) -> int:
        """Where it is, or the empty place where it belongs."""
        place = number % len(self._table)
        while self._table[place] not in (0, number):
            place = (place + 1) % len(self._table)
        return place


def form_of(first: bytes) -> Lines | OpenAI:
    """The form of an input, by its first line."""
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return Lines()
    is_openai = isinstance(record, dict) and ("custom_id" in record or "url" in record) and "body" in record
    return OpenAI() if is_openai else Lines()


def error_of(error: Exception | None) -> dict[str, Any]:
    """What is wrong, as OpenAI words it."""
    is_theirs = isinstance(error, UsageError)
    code = (getattr(error, "code", None) if is_theirs else None) or ("invalid_request" if is_theirs else "failed")
    message = str(error) if isinstance(error, CounterpointError) else f"{type(error).__name__}: {error}"
    return {"code": code, "message": " ".join(message.split()), "param": getattr(error, "param", None)}


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(value)
    return value


def _key(value: object) -> str:
    if not isinstance(value, str) or len(value) != 16:
        raise ValueError(value)
    int(value, 16)
    return value
