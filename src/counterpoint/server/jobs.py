"""HTTP requests in the engine, and what happens to them on its way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from counterpoint.engine import Progress
from counterpoint.server.errors import ApiError
from counterpoint.server.work import Work

Event = tuple[int, Progress]  # number of the work's task, and what happened to one of its samples
MOST_HELD = 16  # events of an answer that nobody sees before its end


class Job:
    """One HTTP request in the engine. Belongs to the event loop; the worker's thread reads `work` and `is_stream`.

    Args:
        is_stream: somebody waits for each token.
        leave: called by `close`.
        began: when the request arrived, by `time.monotonic`; None is now.
        is_background: nobody waits for it.
    """

    def __init__(
        self,
        work: Work,
        leave: Callable[[Job], None],
        *,
        is_stream: bool,
        began: float | None = None,
        is_background: bool = False,
    ) -> None:
        self.work, self.is_stream, self.is_background = work, is_stream, is_background
        self.began = time.monotonic() if began is None else began
        self.num_open = work.total
        self.timer: asyncio.TimerHandle | None = None
        self.has_token = False  # kept by the worker's thread
        self._leave = leave
        self._news: asyncio.Queue[list[Event] | ApiError] = asyncio.Queue()

    def post(self, news: list[Event] | ApiError) -> None:
        self._news.put_nowait(news)

    async def news(self) -> AsyncIterator[list[Event]]:
        """What happens, until every sample is finished: of a stream, all that happened at one step together.

        Raises:
            ApiError: the job ended otherwise.
        """
        left = self.work.total
        while left:
            events = await self._news.get()
            if isinstance(events, ApiError):
                raise events
            left -= sum(progress.completion is not None for _, progress in events)
            yield events

    def close(self) -> None:
        """Nobody waits for it any more; its rows are freed before the next step. May be called again."""
        self._leave(self)


class Outbox:
    """Events that the worker's thread has not yet handed to the event loop.

    What happens to a stream is due at once. Of an answer that is read whole, nothing is until a sample ends: waking the
    event loop takes the interpreter from the engine, and there is nothing to do for it.
    """

    def __init__(self) -> None:
        self._held: dict[Job, list[Event]] = {}
        self._due: list[tuple[Job, list[Event] | ApiError]] = []

    def put(self, job: Job, event: Event) -> None:
        self._held.setdefault(job, []).append(event)

    def fail(self, job: Job, error: ApiError) -> None:
        """The job ends with this, whatever was on its way to it."""
        self._held.pop(job, None)
        self._due.append((job, error))

    def forget(self, job: Job) -> None:
        """Nobody waits for it any more."""
        self._held.pop(job, None)

    def take(self) -> list[tuple[Job, list[Event] | ApiError]]:
        """What is due now."""
        for job in [job for job, events in self._held.items() if _is_due(job, events)]:
            self._due.append((job, self._held.pop(job)))
        due, self._due = self._due, []
        return due

    @property
    def has_due(self) -> bool:
        """Whether an answer waits to be told of its end."""
        return bool(self._due)


def _is_due(job: Job, events: list[Event]) -> bool:
    return job.is_stream or len(events) >= MOST_HELD or any(progress.completion is not None for _, progress in events)
