"""Lines of a job answered by the server's own engine, behind the requests for which somebody waits."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from queue import Empty, SimpleQueue

from counterpoint.batch.job import Result, Task
from counterpoint.batch.remote import refusal
from counterpoint.server.endpoints import ENDPOINTS
from counterpoint.server.errors import ApiError, failed
from counterpoint.server.service import Service

log = logging.getLogger("counterpoint.server")
LOOKED_S = 0.2  # between looks at whether the job is to end


class Answering:
    """A runner of lines in OpenAI's format (`batch.forms.OpenAI`) on a server's engine.

    Args:
        loop: the server's event loop. Called in another thread.
        window: most lines that are begun and not answered.
        is_ending: whether no more lines are to be run; what is begun is dropped.
    """

    def __init__(
        self, service: Service, loop: asyncio.AbstractEventLoop, *, window: int, is_ending: Callable[[], bool]
    ) -> None:
        self._service, self._loop = service, loop
        self._window, self._is_ending = window, is_ending
        self._turn = asyncio.Lock()  # so that a live request waits for the reading of one line at most

    def __call__(self, tasks: Iterator[Task]) -> Iterable[Result]:
        done: SimpleQueue[Future[Result]] = SimpleQueue()
        begun: set[Future[Result]] = set()
        try:
            while not self._is_ending():
                while len(begun) < self._window and (task := next(tasks, None)) is not None:
                    future = asyncio.run_coroutine_threadsafe(self._one(task), self._loop)
                    begun.add(future)
                    future.add_done_callback(done.put)
                if not begun:
                    return
                try:
                    future = done.get(timeout=LOOKED_S)
                except Empty:
                    continue
                begun.discard(future)
                try:
                    result = future.result()
                except (CancelledError, ApiError):  # the server is ending
                    return
                yield result
        finally:
            for future in begun:
                future.cancel()

    async def _one(self, task: Task) -> Result:
        asked = task.asked
        try:
            answer = await self._service.run(ENDPOINTS[asked["url"]], json.dumps(asked["body"]).encode(), self._turn)
            return Result(task, answer=(200, *answer))
        except ApiError as error:
            if error.status == 503:
                raise
            said = error
        except Exception:
            log.exception("a line of a job failed")
            said = failed()
        return Result(task, answer=(said.status, uuid.uuid4().hex, said.body), error=refusal(said.status, said.body))
