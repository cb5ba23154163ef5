"""The thread that owns the engine."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from counterpoint.engine import Engine, Progress
from counterpoint.errors import UsageError
from counterpoint.server.errors import ApiError, from_usage, too_late
from counterpoint.server.jobs import Event, Job, Outbox
from counterpoint.server.limits import Limits
from counterpoint.server.metrics import Metrics
from counterpoint.server.work import Work

log = logging.getLogger("counterpoint.server")

STEP_S = 10.0  # for the last step to end, before the thread is left to itself
FAILED = "the server failed at this request; the others go on"


@dataclass(slots=True)
class Owner:
    """Whose an engine's request is: the job, the number of the task in it, samples that have not ended."""

    job: Job
    number: int
    left: int


class Worker:
    """Runs the engine in a thread of its own.

    Args:
        new_engine: called in the thread, and again should an engine be lost.
        limits: of the queue and of time.
        metrics: counted into, on the event loop.
    """

    def __init__(self, new_engine: Callable[[], Engine], limits: Limits, metrics: Metrics) -> None:
        self._new_engine, self._limits, self._metrics = new_engine, limits, metrics
        self._commands: SimpleQueue[tuple[str, Job | None]] = SimpleQueue()
        self._jobs: set[Job] = set()
        self._num_open = 0  # samples of jobs that have not ended
        self._num_running = self._num_rows = self._num_background = 0  # as the thread last saw them
        self._mean_s = 1.0  # of a request, moving
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.is_draining = False

    # On the event loop.

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """Samples that hold rows, those of jobs apart."""
        return self._num_running

    @property
    def num_background(self) -> int:
        """Samples of jobs that hold rows."""
        return self._num_background

    @property
    def num_waiting(self) -> int:
        """Samples that wait for rows."""
        return max(0, self._num_open - self._num_running)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return self._num_rows

    def submit(self, work: Work, *, is_stream: bool, began: float | None = None, is_background: bool = False) -> Job:
        """Queue a request.

        Args:
            is_background: nobody waits for it: it has no deadline, takes no place in the queue, and gives way to others.

            is_stream: somebody waits for each token; otherwise events may be held back for the end of a sample.
            began: when the request arrived, by `time.monotonic`; its deadline counts from there.

        Raises:
            ApiError: the queue is full (429), or the server is ending (503).
        """
        if self.is_draining or not self.is_alive:
            raise ApiError(503, "the server is ending; try another or later", kind="server_error", retry_after_s=5)
        if not is_background and self.num_waiting + work.total > self._limits.max_waiting:
            raise ApiError(
                429,
                f"{self.num_waiting} requests wait already and this server queues {self._limits.max_waiting}; try later",
                kind="rate_limit_error",
                code="queue_full",
                retry_after_s=self._patience_s(),
            )
        job = Job(work, self._left, is_stream=is_stream, began=began, is_background=is_background)
        self._jobs.add(job)
        if not is_background:
            self._num_open += work.total
            left_s = self._limits.deadline_s - (time.monotonic() - job.began)
            job.timer = self._loop.call_later(max(0.0, left_s), self._expire, job)
        self._commands.put(("add", job))
        return job

    def end(self, error: ApiError) -> None:
        """Tell every open job that there is no more."""
        for job in list(self._jobs):
            job.post(error)
            self._left(job)

    def stop(self) -> None:
        """End the thread after the step that it is in."""
        self._commands.put(("stop", None))
        if self._thread is not None:
            self._thread.join(timeout=STEP_S)

    @property
    def num_jobs(self) -> int:
        return len(self._jobs)

    def _patience_s(self) -> float:
        waves = self.num_waiting / max(1, self._num_running)
        return min(60.0, math.ceil(self._mean_s * max(1.0, waves)))

    def _expire(self, job: Job) -> None:
        job.post(too_late(self._limits.deadline_s))
        self._left(job)

    def _left(self, job: Job) -> None:
        if job not in self._jobs:
            return
        if job.timer is not None:
            job.timer.cancel()
            self._num_open -= job.num_open
        if job.num_open:
            self._commands.put(("cancel", job))
        elif not job.is_background:
            took = time.monotonic() - job.began
            self._mean_s += 0.1 * (took - self._mean_s)
            self._metrics.request_s.observe(took)
        self._jobs.remove(job)  # last: where it is gone, the thread has been told

    def _deliver(self, due: Iterable[tuple[Job, list[Event] | ApiError]]) -> None:
        for job, news in due:
            if job not in self._jobs:
                continue
            job.post(news)
            if isinstance(news, ApiError):
                self._metrics.failures.inc(news.status >= 500)
                self._left(job)
                continue
            ended = sum(progress.completion is not None for _, progress in news)
            self._num_open -= 0 if job.is_background else ended
            job.num_open -= ended
            if not job.num_open:
                self._left(job)

    # In the thread.

    def _run(self) -> None:
        engine, owners, outbox = self._new_engine(), {}, Outbox()
        while True:
            try:
                if not self._obey(engine, owners, outbox):
                    return
                began = time.perf_counter()
                progress = engine.step()
                self._metrics.step_s.observe(time.perf_counter() - began)
                self._metrics.completion_tokens.inc(sum(p.token_id is not None for p in progress))
                for p in progress:
                    self._tell(p, engine, owners, outbox)
            except Exception:
                # The engine isolates what fails; this is a mistake of ours, and its rows can't be trusted any more.
                log.exception("the engine failed and is made anew")
                for job in {owner.job for owner in owners.values()}:
                    outbox.fail(job, ApiError(500, FAILED, kind="server_error"))
                engine, owners = self._new_engine(), {}
            self._note(engine)
            if due := outbox.take():
                try:
                    self._loop.call_soon_threadsafe(self._deliver, due)
                except RuntimeError:  # the loop is closed: `stop` did not wait for this step any longer
                    return

    def _obey(self, engine: Engine, owners: dict[int, Owner], outbox: Outbox) -> bool:
        """Do what was commanded, waiting for it while there is nothing else to do; False at the end."""
        while True:
            try:
                command, job = self._commands.get(block=engine.is_idle and not outbox.has_due)
            except Empty:
                return True
            if command == "stop":
                return False
            if command == "cancel":
                self._drop(job, engine, owners)
                outbox.forget(job)
                self._note(engine)
                continue
            try:
                for number, (_, _, request) in enumerate(job.work.tasks):
                    request_id = engine.add(request, background=job.is_background)
                    owners[request_id] = Owner(job, number, request.num_samples)
            except UsageError as error:
                self._drop(job, engine, owners)
                outbox.fail(job, from_usage(error))

    def _note(self, engine: Engine) -> None:
        self._num_running, self._num_rows = engine.num_running - engine.num_background, engine.num_rows
        self._num_background = engine.num_background

    def _drop(self, job: Job, engine: Engine, owners: dict[int, Owner]) -> None:
        for request_id in [i for i, owner in owners.items() if owner.job is job]:
            engine.cancel(request_id)
            del owners[request_id]

    def _tell(self, progress: Progress, engine: Engine, owners: dict[int, Owner], outbox: Outbox) -> None:
        if progress.request_id not in owners:
            return
        owner = owners[progress.request_id]
        job = owner.job
        if progress.error is not None:
            self._drop(job, engine, owners)
            if isinstance(progress.error, UsageError):  # what was asked for leaves nothing to write
                outbox.fail(job, from_usage(progress.error))
                return
            log.error("a request failed", exc_info=progress.error)
            outbox.fail(job, ApiError(500, FAILED, kind="server_error"))
            return
        if not job.has_token:
            job.has_token = True
            if not job.is_background:
                self._metrics.first_token_s.observe(time.monotonic() - job.began)
        if progress.completion is not None and progress.completion.alarms:
            self._metrics.alarms.labels(job.work.watch).inc(len(progress.completion.alarms))
            self._metrics.discarded_tokens.inc(progress.completion.usage.discarded_tokens)
        outbox.put(job, (owner.number, progress))
        owner.left -= progress.completion is not None
        if not owner.left:
            del owners[progress.request_id]
