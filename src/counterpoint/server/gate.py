"""What every request passes: its path made plain, the API key, its id, the count of answers, and failures of ours."""

from __future__ import annotations

import hmac
import logging
import re
import uuid
from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from counterpoint.server import openapi
from counterpoint.server.errors import ApiError, failed
from counterpoint.server.metrics import Metrics

log = logging.getLogger("counterpoint.server")


#: an id that a client gives its request: visible ASCII
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
#: what follows `/v1/` in the paths that have it
_VERSIONED = frozenset(path.split("/")[2] for path in openapi.PATHS if path.startswith("/v1/"))


class Gate:
    """Asks for the API key, counts answers, and turns what was not foreseen into an answer.

    It stands inside of what adds headers for other origins, so that failures have them too.

    Args:
        api_key: asked for on every path but the page and `/health`; None asks for none.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self._expected = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = _plain_path(scope["path"])
        known = openapi.route_of(path)
        is_head, begun = scope["method"] == "HEAD", False

        async def counted(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": _with_request_id(message["headers"], scope["headers"])}
                self.metrics.requests.labels(known, str(message["status"])).inc()
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        if not self._is_let_in(scope, path):
            error = ApiError(
                401, "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                kind="authentication_error", code="invalid_api_key",
            )  # fmt: skip
            headers = {**error.headers, "WWW-Authenticate": "Bearer"}
            await JSONResponse(error.body, error.status, headers)(scope, receive, counted)
            return
        # What answers a GET answers a HEAD, without its body.
        inner = {**scope, "path": path, "raw_path": path.encode(), "method": "GET" if is_head else scope["method"]}
        try:
            await self.app(inner, receive, counted)
        except ClientDisconnect:
            raise
        except Exception:
            log.exception("a request failed")
            self.metrics.failures.inc()
            if begun:
                raise
            error = failed()
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, counted)

    def _is_let_in(self, scope: Scope, path: str) -> bool:
        is_open = path in ("/", "/compare", "/health") or path.startswith("/page/")
        if self._expected is None or is_open or scope["method"] == "OPTIONS":
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.strip().partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._expected)


def _with_request_id(headers: Any, asked: Any) -> list[tuple[bytes, bytes]]:
    """An answer's headers with `x-request-id`: the client's own, that of the answer, or a new one."""
    own = next((value for name, value in asked if name == b"x-request-id"), b"")
    if _REQUEST_ID.fullmatch(own):
        return [*((name, value) for name, value in headers if name.lower() != b"x-request-id"), (b"x-request-id", own)]
    if any(name.lower() == b"x-request-id" for name, _ in headers):
        return list(headers)
    return [*headers, (b"x-request-id", f"req_{uuid.uuid4().hex}".encode())]


def _plain_path(path: str) -> str:
    """The path without slashes that clients put too many, and with the `/v1` that they leave out of the server's address."""
    path = re.sub(r"/{2,}", "/", path)
    path = path if path.startswith("/page/") else path.rstrip("/") or "/"
    return f"/v1{path}" if path.split("/")[1] in _VERSIONED else path
