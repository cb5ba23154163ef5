"""The routes."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from counterpoint import __version__
from counterpoint.engine import Engine
from counterpoint.models.model import Model
from counterpoint.server import openapi
from counterpoint.server.answers import Answer, ChatAnswer, CompletionAnswer
from counterpoint.server.errors import ApiError, from_validation
from counterpoint.server.jobs import Job
from counterpoint.server.limits import Limits
from counterpoint.server.metrics import Metrics
from counterpoint.server.reading import Work, read_chat, read_completion
from counterpoint.server.schema import Asked, ChatBody, CompletionBody
from counterpoint.server.transport import EventStream, read_body, unless_gone
from counterpoint.server.worker import Worker
from counterpoint.trace.labels import labeller

PAGE = Path(__file__).parent / "page"
PAGE_POLICY = "default-src 'self'; img-src data:; frame-ancestors 'none'"
CLIENT_GONE = 499
Body = TypeVar("Body", bound=Asked)


class Service:
    """What the routes share: one model, one engine's thread, one reading thread."""

    def __init__(self, model: Model, limits: Limits, *, model_name: str, models: Mapping[str, Model]) -> None:
        self.model, self.limits, self.model_name, self.models = model, limits, model_name, models
        self.created = int(time.time())
        self.metrics = Metrics()
        self.label = labeller(model)
        self.worker = Worker(self._new_engine, limits, self.metrics)
        # Tokenizers are not to be used by several threads at once, and a long text must not stop the streams.
        self.reading = ThreadPoolExecutor(1, thread_name_prefix="reading")
        for name, what in (("running", "Samples that hold rows"), ("waiting", "Samples that wait for rows")):
            self.metrics.watch(name, what, lambda name=name: getattr(self.worker, f"num_{name}"))
        self.metrics.watch("rows", "Rows in use", lambda: self.worker.num_rows)

    def _new_engine(self) -> Engine:
        return Engine(
            self.model,
            max_rows=self.limits.max_rows,
            prefill_tokens=self.limits.prefill_tokens,
            idle_prefill_tokens=self.limits.idle_prefill_tokens,
            prefix_tokens=self.limits.prefix_tokens,
            pauses=False,
        )

    async def answer(
        self,
        request: Request,
        kind: type[Body],
        read: Callable[[Model, Body, Limits, Mapping[str, Model]], Work],
        shape: type[Answer],
    ) -> Response:
        """Read a request, run it, and answer it whole or as events."""
        data = await read_body(request, self.limits.max_body_bytes)
        try:
            body = kind.model_validate_json(data)
        except ValidationError as error:
            raise from_validation(error) from None
        self.check_model(body.model)
        loop = asyncio.get_running_loop()
        work = await loop.run_in_executor(self.reading, read, self.model, body, self.limits, self.models)
        job = self.worker.submit(work, is_stream=bool(body.stream))
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        made = shape(work, model_name=self.model_name, label=self.label, with_usage=with_usage)
        headers = {"x-request-id": made.id}
        self.metrics.prompt_tokens.inc(sum(len(r.prompt_ids) for r in work.requests))
        self.metrics.guided.inc(sum(bool(r.useful_branches) for r in work.requests) * work.num_samples)

        def close(is_whole: bool) -> None:
            job.close()
            self.metrics.gone.inc(not is_whole)
            self.metrics.branch_tokens.inc(made.usage()["branch_tokens"])

        if body.stream:
            return EventStream(_events(job, made), on_close=close, most_s=self.limits.deadline_s + 30, headers=headers)
        is_whole = True
        try:
            return JSONResponse(await unless_gone(request.receive, _whole(job, made)), headers=headers)
        except ClientDisconnect:
            is_whole = False
            raise
        finally:
            close(is_whole)

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
        }


async def _whole(job: Job, made: Answer) -> dict[str, Any]:
    async for events in job.news():
        for number, progress in events:
            made.take(number, progress)
    return made.whole()


async def _events(job: Job, made: Answer) -> AsyncIterator[bytes]:
    try:
        async for events in job.news():
            choices = [choice for number, progress in events for choice in made.take(number, progress)]
            if choices:
                yield b"".join(made.chunk([choice]) for choice in choices)
    except ApiError as error:
        yield openapi.error_event(error)
        return
    for event in made.end():
        yield event


class Gate:
    """Asks for the API key, and counts answers.

    Args:
        open_paths: what needs no key.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        known = path if path in openapi.PATHS else "other"

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(known, str(message["status"])).inc()
            await send(message)

        if self._is_let_in(scope, path):
            await self.app(scope, receive, counted)
        else:
            error = ApiError(
                401, "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                kind="authentication_error", code="invalid_api_key",
            )  # fmt: skip
            headers = {**error.headers, "WWW-Authenticate": "Bearer"}
            await JSONResponse(error.body, error.status, headers)(scope, receive, counted)

    def _is_let_in(self, scope: Scope, path: str) -> bool:
        is_open = path in ("/", "/health") or path.startswith("/page/")
        if self._expected is None or is_open or scope["method"] == "OPTIONS":
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


def create_app(
    model: Model,
    *,
    limits: Limits | None = None,
    model_name: str | None = None,
    api_key: str | None = None,
    cors_origins: tuple[str, ...] = (),
    models: Mapping[str, Model] | None = None,
) -> FastAPI:
    """The server as an ASGI application; `app.state.service` is what it runs on.

    Args:
        model: what is served.
        limits: what it takes on; None is the defaults.
        model_name: what clients call the model; None is the model's own name.
        api_key: asked for on every path but the page and `/health`; None asks for none.
        cors_origins: web pages of these origins may use it from a browser.
        models: further models that branches can name.
    """
    service = Service(model, limits or Limits(), model_name=model_name or model.name, models=models or {})

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.stop()
        service.reading.shutdown(cancel_futures=True)

    app = FastAPI(title="Counterpoint", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, api_key=api_key, metrics=service.metrics)
    if cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=cors_origins, allow_methods=["*"], allow_headers=["*"])
    _add_errors(app)
    _add_routes(app, service)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.openapi = lambda: openapi.document(app)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def _refused(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def _not_found(request: Request, error: HTTPException) -> Response:
        made = ApiError(error.status_code, f"{request.method} {request.url.path[:80]}: {error.detail}")
        return JSONResponse(made.body, made.status, {**made.headers, **(error.headers or {})})

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(Exception)
    async def _failed(_: Request, __: Exception) -> Response:
        made = ApiError(500, "the server failed at this request; its log says why", kind="server_error")
        return JSONResponse(made.body, made.status, made.headers)


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", **openapi.takes(CompletionBody, "Continue one prompt or many"))
    async def completions(request: Request) -> Response:
        return await service.answer(request, CompletionBody, read_completion, CompletionAnswer)

    @app.post("/v1/chat/completions", **openapi.takes(ChatBody, "Continue a conversation"))
    async def chat_completions(request: Request) -> Response:
        return await service.answer(request, ChatBody, read_chat, ChatAnswer)

    @app.get("/v1/models", **openapi.gives("The models: one"))
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [service.describe()]})

    @app.get("/v1/models/{name:path}", **openapi.gives("One model", 404))
    async def one_model(name: str) -> Response:
        service.check_model(name)
        return JSONResponse(service.describe())

    @app.get("/health", **openapi.gives("Whether it serves", 503))
    async def health() -> Response:
        worker = service.worker
        status = "ending" if worker.is_draining else "ok" if worker.is_alive else "failed"
        body = {"status": status, "running": worker.num_running, "waiting": worker.num_waiting, "rows": worker.num_rows}
        return JSONResponse(body, 200 if status == "ok" else 503)

    @app.get("/metrics", **openapi.gives("For Prometheus", kind="text/plain"))
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": PAGE_POLICY})
