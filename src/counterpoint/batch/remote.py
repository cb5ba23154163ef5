"""Requests of a job sent to a server: ours, or any other that speaks OpenAI's API."""

from __future__ import annotations

import email.utils
import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from counterpoint.batch.job import Result, Task
from counterpoint.batch.lines import Line
from counterpoint.errors import Failure, UsageError

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0


class Remote:
    """A runner that sends each task to a server, several at once, and again where that is worth it.

    A connection that fails, and the statuses 408, 409, 425, 429 and 5xx, are tried again after a wait that doubles, or that
    the server names in `Retry-After`.

    Args:
        base_url: up to and without `/v1`.
        api_key: sent as a bearer token.
        model: for bodies that name none.
        window: requests at once.
        tries: for each request.
        timeout_s: for one answer.
        body_of: the path and body of a task's request, and what its answer becomes.
    """

    def __init__(
        self,
        base_url: str,
        *,
        body_of: Callable[[Task], tuple[str, Mapping[str, Any]]],
        answer_of: Callable[[int, str, Any], Any] | None = None,
        api_key: str | None = None,
        window: int = 32,
        tries: int = 6,
        timeout_s: float = 600.0,
    ) -> None:
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._body_of, self._answer_of = body_of, answer_of or (lambda *answer: answer)
        self._window, self._tries, self._timeout_s = window, tries, timeout_s

    def __call__(self, tasks: Iterator[Task]) -> Iterable[Result]:
        import httpx

        todo: queue.Queue[Task | None] = queue.Queue()
        done: queue.Queue[Result | BaseException] = queue.Queue()
        ended = threading.Event()
        limits = httpx.Limits(max_connections=self._window)
        with httpx.Client(
            base_url=self._base_url, headers=self._headers, timeout=self._timeout_s, limits=limits
        ) as client:

            def work() -> None:
                while (task := todo.get()) is not None:
                    try:
                        done.put(self._one(client, task, ended))
                    except BaseException as error:
                        done.put(error)

            threads = [threading.Thread(target=work, daemon=True) for _ in range(self._window)]
            for thread in threads:
                thread.start()
            try:
                num_open = 0
                while True:
                    while num_open < self._window and (task := next(tasks, None)) is not None:
                        todo.put(task)
                        num_open += 1
                    if not num_open:
                        return
                    result = done.get()
                    num_open -= 1
                    if isinstance(result, BaseException):
                        raise result
                    yield result
            finally:
                ended.set()
                for _ in threads:
                    todo.put(None)

    def _one(self, client: Any, task: Task, ended: threading.Event) -> Result:
        import httpx

        path, body = self._body_of(task)
        wait = FIRST_WAIT_S
        for attempt in range(1, self._tries + 1):
            is_last = attempt == self._tries or ended.is_set()
            try:
                reply = client.post(path, json=dict(body))
            except httpx.HTTPError as error:
                if is_last:
                    if isinstance(error, httpx.ConnectError):
                        raise Failure(
                            f"{self._base_url} can't be reached ({error}); start it, and the same command goes on"
                        ) from None
                    return Result(
                        task, error=Failure(f"no answer after {attempt} tries: {type(error).__name__}: {error}")
                    )
                ended.wait(wait)
            else:
                if reply.status_code not in AGAIN or is_last:
                    return self._read(task, reply)
                ended.wait(min(_named_wait(reply.headers.get("retry-after")) or wait, LONGEST_WAIT_S))
            wait = min(2 * wait, LONGEST_WAIT_S)
        raise AssertionError("unreachable")

    def _read(self, task: Task, reply: Any) -> Result:
        try:
            body = reply.json()
        except json.JSONDecodeError:
            body = {"error": {"message": reply.text[:500]}}
        request_id = reply.headers.get("x-request-id") or uuid.uuid4().hex
        answer = self._answer_of(reply.status_code, request_id, body)
        return Result(task, answer=answer, error=refusal(reply.status_code, body))


def refusal(status: int, body: Any) -> UsageError | None:
    """What an answer in OpenAI's shape says is wrong; None where it is one."""
    if status < 400:
        return None
    said = body.get("error") if isinstance(body, dict) else None
    error = UsageError(
        str(said.get("message") if isinstance(said, dict) else body)[:2000],
        param=said.get("param") if isinstance(said, dict) else None,
    )
    error.code = (said.get("code") if isinstance(said, dict) else None) or f"http_{status}"
    return error


def body_of_line(line: Line, *, model: str | None, defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A line of our own as a request of completions.

    Raises:
        UsageError: it has something that the wire has no field for.
    """
    options = {**defaults, **dict(line.options or {})}
    if "stop_ids" in options:
        options["stop_token_ids"] = options.pop("stop_ids")
    body: dict[str, Any] = {"prompt": "" if line.prompt is None else line.prompt, **options}
    if model is not None:
        body["model"] = model
    if line.negative is not None:
        body["negative_prompt"] = line.negative
    guidance = {} if line.guide is None else line.guide.to_dict()
    if line.branches is not None:
        guidance["branches"] = list(line.branches)
    if "scale" in guidance:
        body["guidance_scale"] = guidance.pop("scale")
    if guidance:
        body["guidance"] = guidance
    return "/v1/completions", body


def completions_of(status: int, request_id: str, body: Any) -> Any:
    """The completions of an answer to `body_of_line`, as our engine would describe them."""
    if status >= 400 or not isinstance(body, dict):
        return None
    choices = sorted(body.get("choices", []), key=lambda choice: choice.get("index", 0))
    return [{**{k: v for k, v in choice.items() if v is not None}, "usage": body.get("usage")} for choice in choices]


def _named_wait(value: str | None) -> float | None:
    """Seconds that `Retry-After` names, as a number or as a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
