"""The document at `/openapi.json`. Bodies are read by ourselves, strictly, so their schemas are put in here."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from counterpoint.server.batches.schema import BatchBody
from counterpoint.server.responses import ResponsesBody
from counterpoint.server.schema import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

PATHS = frozenset({
    "/", "/compare", "/health", "/metrics", "/openapi.json", "/docs", "/v1/models", "/v1/completions", "/v1/chat/completions",
    "/v1/responses", "/tokenize", "/detokenize", "/v1/files", "/v1/files/{id}", "/v1/files/{id}/content", "/v1/batches",
    "/v1/batches/{id}", "/v1/batches/{id}/cancel",
})  # fmt: skip
_ID = re.compile(r"/(file-|batch_)[^/]*")
BODIES = (CompletionBody, ChatBody, ResponsesBody, BatchBody, TokenizeBody, DetokenizeBody)
REFUSALS = {
    400: "A field can't be; the message says which and what to do",
    401: "The API key is missing or wrong",
    404: "There is no such model",
    408: "It took longer than the server allows",
    409: "It is in use, or over",
    413: "The body is too large",
    415: "The body is no JSON by its header",
    429: "The queue is full; see Retry-After",
    500: "The server failed",
    503: "The server is ending",
    507: "There is no room in the server's folder",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "code": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        }
    },
}
_REF = "#/components/schemas/"


def takes(body: type, summary: str, *, required: tuple[str, ...] = ("id", "choices")) -> dict[str, Any]:
    """The arguments of a route that takes a body."""
    content = {"application/json": {"schema": {"$ref": _REF + body.__name__}}}
    answer = {"application/json": {"schema": {"type": "object", "required": list(required)}}}
    return {
        "summary": summary,
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {
            200: {
                "description": "OpenAI's object, or its chunks as events",
                "content": answer | {"text/event-stream": {}},
            },
            **_refusals(*REFUSALS),
        },
    }


def uploads(summary: str, fields: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a route that takes a form with a file."""
    kinds = {name: {"type": "string"} | ({"format": "binary"} if name == "file" else {}) for name in fields}
    content = {"multipart/form-data": {"schema": {"type": "object", "required": list(fields), "properties": kinds}}}
    made = gives(summary, 400, 404, 408, 413, 415, 500, 507)
    return made | {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def route_of(path: str) -> str:
    """The route that a path belongs to, as answers are counted; `other` where it is none."""
    route = _ID.sub("/{id}", path)
    return route if route in PATHS else "other"


def gives(summary: str, *refusals: int, kind: str = "application/json") -> dict[str, Any]:
    """The arguments of a route that takes nothing."""
    return {
        "summary": summary,
        "responses": {200: {"description": summary, "content": {kind: {"schema": {}}}}, **_refusals(401, *refusals)},
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, schemas = models_json_schema([(body, "validation") for body in BODIES], ref_template=_REF + "{model}")
        components = made.setdefault("components", {})
        components.setdefault("schemas", {}).update(schemas["$defs"] | {"Error": ERROR})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{}, {"key": []}]
        app.openapi_schema = made
    return app.openapi_schema


def _refusals(*statuses: int) -> dict[int, Any]:
    content = {"application/json": {"schema": {"$ref": _REF + "Error"}}}
    return {status: {"description": REFUSALS[status], "content": content} for status in statuses}
