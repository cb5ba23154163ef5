"""The server as an ASGI application, put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from counterpoint import __version__
from counterpoint.models.model import Model
from counterpoint.server import openapi
from counterpoint.server.batches.batches import Batches
from counterpoint.server.batches.folder import DataFolder
from counterpoint.server.batches.routes import add_batch_routes
from counterpoint.server.errors import ApiError
from counterpoint.server.gate import Gate
from counterpoint.server.limits import Limits
from counterpoint.server.routes import PAGE, add_routes
from counterpoint.server.service import Service
from counterpoint.watch import Watch

CLIENT_GONE = 499


def create_app(
    model: Model,
    *,
    limits: Limits | None = None,
    model_name: str | None = None,
    api_key: str | None = None,
    cors_origins: tuple[str, ...] = (),
    models: Mapping[str, Model] | None = None,
    watches: Mapping[str, Watch] | None = None,
    data: DataFolder | None = None,
) -> FastAPI:
    """The server as an ASGI application; `app.state.service` is what it runs on.

    Args:
        model: what is served.
        limits: what it takes on; None is the defaults.
        model_name: what clients call the model; None is the model's own name.
        api_key: asked for on every path but the page and `/health`; None asks for none.
        cors_origins: web pages of these origins may use it from a browser.
        models: further models that branches can name.
        watches: watches that requests can name, each of this model.
        data: where files and jobs are kept; None keeps none.
    """
    for watch in (watches or {}).values():
        watch.check(model)
    service = Service(
        model, limits or Limits(), model_name=model_name or model.name, models=models or {}, watches=watches or {}
    )

    batches = None if data is None else Batches(data, service)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        if batches is not None:
            batches.start()
        yield
        if batches is not None:
            await batches.stop()
        service.worker.stop()
        service.readers.close()

    app = FastAPI(title="Counterpoint", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.batches = service, batches
    app.add_middleware(Gate, api_key=api_key, metrics=service.metrics)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=cors_origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["x-request-id", "Retry-After", "x-should-retry"],
        )  # fmt: skip
    _add_errors(app)
    add_routes(app, service)
    add_batch_routes(app, service, batches)
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
