"""The routes."""

from __future__ import annotations

import asyncio
import functools
import time
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from counterpoint.server import openapi
from counterpoint.server.api_page import api_page
from counterpoint.server.bodies import read_fields
from counterpoint.server.endpoints import CHAT, COMPLETIONS, RESPONSES
from counterpoint.server.responses import ResponsesBody
from counterpoint.server.schema import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from counterpoint.server.service import Service
from counterpoint.server.tokens import detokenize, tokenize

PAGE = Path(__file__).parent / "page"
PAGE_POLICY = "default-src 'self'; img-src data:; frame-ancestors 'none'"


def add_routes(app: FastAPI, service: Service) -> None:
    """All routes of a server."""
    _add_generation(app, service)
    _add_tokens(app, service)
    _add_state(app, service)
    _add_pages(app)


def _add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", **openapi.takes(CompletionBody, "Continue one prompt or many"))
    async def completions(request: Request) -> Response:
        return await service.answer(request, COMPLETIONS)

    @app.post("/v1/chat/completions", **openapi.takes(ChatBody, "Continue a conversation"))
    async def chat_completions(request: Request) -> Response:
        return await service.answer(request, CHAT)

    @app.post("/v1/responses", **openapi.takes(ResponsesBody, "Answer an input of text", required=("id", "output")))
    async def responses(request: Request) -> Response:
        return await service.answer(request, RESPONSES)


def _add_tokens(app: FastAPI, service: Service) -> None:
    def read(kind, function, data):
        body = read_fields(kind, data)
        service.check_model(body.model)
        return function(service.served, body)

    @app.post("/tokenize", **openapi.takes(TokenizeBody, "A text or a conversation as token ids", required=("tokens",)))
    async def tokenized(request: Request) -> Response:
        made = functools.partial(read, TokenizeBody, tokenize)
        return JSONResponse(await service.read(request, time.monotonic(), made))

    @app.post("/detokenize", **openapi.takes(DetokenizeBody, "Token ids as a text", required=("prompt",)))
    async def detokenized(request: Request) -> Response:
        made = functools.partial(read, DetokenizeBody, detokenize)
        return JSONResponse(await service.read(request, time.monotonic(), made))


def _add_state(app: FastAPI, service: Service) -> None:
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


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/compare", include_in_schema=False)
    async def compare_page() -> Response:
        return FileResponse(PAGE / "compare.html", headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = await asyncio.to_thread(lambda: api_page(app.openapi()))
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})
