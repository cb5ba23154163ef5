"""The jobs of a server: kept on disk, run one after the other, going on after a kill."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from pathlib import Path
from typing import Any

from counterpoint import __version__
from counterpoint.batch.files import open_lines
from counterpoint.batch.forms import OpenAI
from counterpoint.batch.job import run_job
from counterpoint.batch.journal import Journal
from counterpoint.errors import CounterpointError, Failure, UsageError
from counterpoint.server.batches.answering import Answering
from counterpoint.server.batches.checking import check_input
from counterpoint.server.batches.files import Files
from counterpoint.server.batches.folder import DataFolder, new_id, read_records, write_record
from counterpoint.server.batches.record import PREFIX, Batch, problem
from counterpoint.server.batches.results import write_results
from counterpoint.server.errors import ApiError
from counterpoint.server.service import Service

log = logging.getLogger("counterpoint.server")
AGAIN_S = 30.0  # after a full disk


class Batches:
    """Jobs and their files. `add`, `cancel` and what reads may be called from any thread; a thread of its own runs them.

    Args:
        window: most lines of a job that are begun and not answered.
    """

    def __init__(self, folder: DataFolder, service: Service, *, window: int = 64) -> None:
        self._folder, self._service, self._window = folder, service, window
        self.files = Files(folder.files)
        self._known = {name: Batch(**record) for name, record in read_records(folder.batches)}
        self._changed = threading.Condition()
        self._queue = [name for name, batch in self._known.items() if not batch.is_over]
        for name in self._known.keys() - set(self._queue):
            self._forget_journal(name)
        self._running: tuple[str, Journal] | None = None
        self._is_ending = False
        self._identity: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run what is queued. Called on the server's event loop."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run_all, args=(loop,), name="batches", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End after the line that is being written; what is left goes on at the next start."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 10)
        self._folder.close()

    def add(self, **fields: Any) -> Batch:
        """Queue a job of these fields of `Batch`.

        Raises:
            Failure: it can't be written.
        """
        batch = Batch(id=new_id(PREFIX), **fields)
        with self._changed:
            self._put(batch)
            self._queue.append(batch.id)
            self._changed.notify_all()
        return batch

    def get(self, batch_id: str) -> Batch:
        """A job with its counts as they are now. Raises `ApiError`: there is none."""
        if batch_id not in self._known:
            raise ApiError(404, f"there is no batch {batch_id[:80]!r}", param="id", code="batch_not_found")
        batch, running = self._known[batch_id], self._running
        if running is None or running[0] != batch_id:
            return batch
        return dataclasses.replace(batch, num_completed=running[1].num_answers, num_failed=running[1].num_errors)

    def all(self) -> list[Batch]:
        """The oldest first."""
        return [self.get(name) for name in list(self._known)]

    def cancel(self, batch_id: str) -> Batch:
        """Run no more of a job's lines; what was answered is kept.

        Raises:
            ApiError: there is none, or it is over.
        """
        with self._changed:
            batch = self.get(batch_id)
            if batch.is_over:
                raise ApiError(409, f"the batch is {batch.status} already", code="batch_over")
            if batch.cancelling_at is None:
                batch = self._change(batch_id, status="cancelling", cancelling_at=int(time.time()))
            if batch_id in self._queue:  # it does not wait for those before it
                self._queue.remove(batch_id)
                self._queue.insert(0, batch_id)
            self._changed.notify_all()
        return batch

    def uses(self, file_id: str) -> str | None:
        """A job that is not over and reads a file."""
        return next((b.id for b in list(self._known.values()) if b.input_file_id == file_id and not b.is_over), None)

    def _put(self, batch: Batch) -> None:
        write_record(self._folder.batches / f"{batch.id}.json", dataclasses.asdict(batch))
        self._known[batch.id] = batch

    def _change(self, batch_id: str, **changes: Any) -> Batch:
        with self._changed:
            batch = dataclasses.replace(self._known[batch_id], **changes)
            self._put(batch)
        return batch

    # In the thread.

    def _run_all(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._is_ending:
                    self._changed.wait()
                if self._is_ending:
                    return
                batch_id = self._queue.pop(0)
            try:
                self._run(batch_id, loop)
            except Failure as error:  # a full disk, most often
                log.error("the job %s waits %g s: %s", batch_id, AGAIN_S, error)
                with self._changed:
                    self._queue.insert(0, batch_id)
                    self._changed.wait_for(lambda: self._is_ending, timeout=AGAIN_S)
            except Exception as error:
                is_theirs = isinstance(error, CounterpointError)
                if not is_theirs:
                    log.exception("the job %s failed", batch_id)
                said = str(error) if is_theirs else "the server failed at this job; its log says why"
                self._fail(batch_id, [problem("failed", said)])

    def _run(self, batch_id: str, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._known[batch_id]
        try:
            source = self.files.path(batch.input_file_id)
        except ApiError as error:
            self._fail(batch_id, [problem("file_not_found", error.message, param="input_file_id")])
            return
        if batch.status == "validating":
            total, errors = check_input(source, batch.endpoint)
            if errors:
                self._fail(batch_id, errors)
                return
            with self._changed:
                if self._known[batch_id].status == "validating":
                    self._change(batch_id, status="in_progress", in_progress_at=int(time.time()), total=total)
        journal = self._journal(batch)
        try:
            self._running = (batch_id, journal)
            self._answer(batch_id, journal, source, loop)
            if not (self._is_whole(batch_id, journal) or self._is_out_of_time(batch_id)):
                if self._is_ending:
                    return
                raise Failure("the engine takes no more lines")
            self._finish(batch_id, journal, source)
        finally:
            self._running = None
            journal.close()
        self._forget_journal(batch_id)

    def _forget_journal(self, batch_id: str) -> None:
        for path in self._folder.batches.glob(f"{batch_id}.answers.*"):
            path.unlink(missing_ok=True)

    def _journal(self, batch: Batch) -> Journal:
        if self._identity is None:
            served = self._service.served
            others = {name: model.fingerprint for name, model in sorted(served.models.items())}
            self._identity = {"engine": "server", "model": served.model.fingerprint, "models": others}
        path = self._folder.batches / f"{batch.id}.answers.jsonl"
        facts = {"versions": {"counterpoint": __version__}, "input": {"name": batch.input_file_id}}
        return Journal(str(path), identity=self._identity, facts=facts, read=OpenAI().entry)

    def _answer(self, batch_id: str, journal: Journal, source: Path, loop: asyncio.AbstractEventLoop) -> None:
        def is_ending() -> bool:
            return self._is_ending or self._is_out_of_time(batch_id)

        if is_ending():
            return
        runner = Answering(self._service, loop, window=self._window, is_ending=is_ending)
        with open_lines(str(source)) as lines:
            run_job(lines, OpenAI(), runner, journal, total=self._known[batch_id].total)

    def _is_out_of_time(self, batch_id: str) -> bool:
        """Whether its time is over, or it was cancelled."""
        batch = self._known[batch_id]
        return batch.cancelling_at is not None or batch.finalizing_at is not None or batch.expires_at <= time.time()

    def _is_whole(self, batch_id: str, journal: Journal) -> bool:
        batch = self._known[batch_id]
        return batch.in_progress_at is not None and journal.num_answers + journal.num_errors >= batch.total

    def _finish(self, batch_id: str, journal: Journal, source: Path) -> None:
        with self._changed:
            batch, now = self._known[batch_id], int(time.time())
            is_whole = self._is_whole(batch_id, journal)
            if batch.finalizing_at is None:
                batch = self._change(batch_id, finalizing_at=now, **({"status": "finalizing"} if is_whole else {}))
        status = "completed" if is_whole else "expired" if batch.cancelling_at is None else "cancelled"
        made = write_results(batch, journal, source, self.files, tell_left=status == "expired")
        self._change(batch_id, **made, status=status, **{f"{status}_at": int(time.time())})

    def _fail(self, batch_id: str, errors: list[dict[str, Any]]) -> None:
        try:
            self._change(batch_id, status="failed", failed_at=int(time.time()), errors=tuple(errors))
        except (Failure, UsageError) as error:
            log.error("the job %s can't be noted as failed: %s", batch_id, error)
