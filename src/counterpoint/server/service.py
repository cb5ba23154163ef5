"""What the routes share: one model, one engine's thread, the threads that read requests."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from counterpoint.engine import Engine
from counterpoint.models.model import Model
from counterpoint.server.answers import Answer, as_json
from counterpoint.server.bodies import read_fields
from counterpoint.server.endpoints import Endpoint
from counterpoint.server.errors import ApiError, failed, too_late
from counterpoint.server.jobs import Job
from counterpoint.server.limits import Limits
from counterpoint.server.metrics import Metrics
from counterpoint.server.readers import Readers
from counterpoint.server.schema import Sampled
from counterpoint.server.transport import EventStream, read_body, unless_gone
from counterpoint.server.work import Served, Work
from counterpoint.server.worker import Worker
from counterpoint.trace.labels import labeller
from counterpoint.watch import Watch

log = logging.getLogger("counterpoint.server")

B = TypeVar("B", bound=Sampled)
T = TypeVar("T")


class Service:
    """One model behind all routes."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        *,
        model_name: str,
        models: Mapping[str, Model],
        watches: Mapping[str, Watch],
    ) -> None:
        self.model, self.limits, self.model_name = model, limits, model_name
        self.served = Served(model, limits, models, watches)
        self.created = int(time.time())
        self.metrics = Metrics()
        self.label = labeller(model)
        self.worker = Worker(self._new_engine, limits, self.metrics)
        self.readers = Readers()
        for name, what in (("running", "Samples that hold rows"), ("waiting", "Samples that wait for rows")):
            self.metrics.watch(name, what, lambda name=name: getattr(self.worker, f"num_{name}"))
        self.metrics.watch("batch_running", "Samples of jobs that hold rows", lambda: self.worker.num_background)
        self.metrics.watch("rows", "Rows in use", lambda: self.worker.num_rows)

    def _new_engine(self) -> Engine:
        return Engine(
            self.model,
            max_rows=self.limits.max_rows,
            prefill_tokens=self.limits.prefill_tokens,
            idle_prefill_tokens=self.limits.idle_prefill_tokens,
            prefix_tokens=self.limits.prefix_tokens,
            repeatable=self.limits.repeatable,
            background_rows=self.limits.batch_rows,
            pauses=False,
        )

    async def answer(self, request: Request, endpoint: Endpoint[B]) -> Response:
        """Read a request, run it, and answer it whole or as events."""
        arrived = time.monotonic()
        body, work = await self.read(request, arrived, functools.partial(self._read, endpoint))
        job = self.worker.submit(work, is_stream=bool(body.stream), began=arrived)
        made = self._begin(endpoint, body, work)
        headers = {"x-request-id": made.id}

        def close(is_whole: bool) -> None:
            job.close()
            self.metrics.gone.inc(not is_whole)
            self.metrics.branch_tokens.inc(made.usage()["branch_tokens"])

        if body.stream:
            events = self._events(job, made)
            return EventStream(events, on_close=close, most_s=self.limits.deadline_s + 30, headers=headers)
        is_whole = True
        try:
            whole = await unless_gone(request.receive, _whole(job, made))
            return Response(as_json(whole), headers=headers, media_type="application/json")
        except ClientDisconnect:
            is_whole = False
            raise
        finally:
            close(is_whole)

    async def run(
        self, endpoint: Endpoint[B], data: bytes, turn: AbstractAsyncContextManager[Any]
    ) -> tuple[str, dict[str, Any]]:
        """Answer a request of a job, for which nobody waits: its id and its body.

        Args:
            data: its body as JSON.
            turn: held while the request is read.

        Raises:
            ApiError: what is wrong with it, or the server is ending (503).
        """
        if len(data) > self.limits.max_body_bytes:
            raise ApiError(
                413, f"the body has {len(data)} bytes; this server reads up to {self.limits.max_body_bytes}",
                code="body_too_large",
            )  # fmt: skip
        async with turn:
            try:
                body, work = await self.readers.run(
                    self.limits.deadline_s, functools.partial(self._read, endpoint), data
                )
            except TimeoutError:
                raise too_late(self.limits.deadline_s) from None
        job = self.worker.submit(work, is_stream=False, is_background=True)
        made = self._begin(endpoint, body, work)
        try:
            return made.id, await _whole(job, made)
        finally:
            job.close()
            self.metrics.branch_tokens.inc(made.usage()["branch_tokens"])

    def _begin(self, endpoint: Endpoint[B], body: B, work: Work) -> Answer:
        """The answer of a request that has been queued; counted."""
        self.metrics.prompt_tokens.inc(sum(len(r.prompt_ids) for r in work.requests))
        self.metrics.guided.inc(sum(bool(r.useful_branches) for r in work.requests) * work.num_samples)
        return endpoint.answer(work, body=body, model_name=self.model_name, label=self.label)

    async def read(self, request: Request, arrived: float, read: Callable[[bytes], T]) -> T:
        """A request's body, read in a thread of its own within the deadline."""
        data = await read_body(request, self.limits.max_body_bytes)
        left_s = self.limits.deadline_s - (time.monotonic() - arrived)
        try:
            return await self.readers.run(left_s, read, data)
        except TimeoutError:
            raise too_late(self.limits.deadline_s) from None

    def _read(self, endpoint: Endpoint[B], data: bytes) -> tuple[B, Work]:
        body = read_fields(endpoint.body, data)
        self.check_model(body.model)
        return body, endpoint.read(self.served, body)

    async def _events(self, job: Job, made: Answer) -> AsyncIterator[bytes]:
        """An answer's events. Whatever goes wrong is the last of them, since the status is sent already."""
        try:
            if first := made.start():
                yield first
            async for events in job.news():
                choices = [choice for number, progress in events for choice in made.take(number, progress)]
                if choices:
                    yield made.events(choices)
            yield made.end()
        except ApiError as error:
            yield made.failure(error)
        except Exception:
            log.exception("a stream failed")
            self.metrics.failures.inc()
            yield made.failure(failed())

    def check_model(self, name: str | None) -> None:
        """Raise where the request is for another model."""
        if name is not None and name != self.model_name:
            raise ApiError(
                404, f"the model {name[:80]!r} is not served here; it is {self.model_name!r}", param="model",
                code="model_not_found",
            )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.created,
            "owned_by": "counterpoint",
            "max_model_len": self.model.context_len,
            "has_chat_template": getattr(self.model.tokenizer, "chat_template", None) is not None,
        }


async def _whole(job: Job, made: Answer) -> dict[str, Any]:
    async for events in job.news():
        for number, progress in events:
            made.take(number, progress)
    return await asyncio.to_thread(made.whole) if made.is_long else made.whole()
