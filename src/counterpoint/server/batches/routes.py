"""The routes of `/v1/files` and `/v1/batches`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from counterpoint.errors import Failure
from counterpoint.server import openapi
from counterpoint.server.batches.batches import Batches
from counterpoint.server.batches.record import Batch, seconds_of
from counterpoint.server.batches.schema import BatchBody
from counterpoint.server.batches.uploads import keep_upload
from counterpoint.server.bodies import read_object, validated
from counterpoint.server.errors import ApiError
from counterpoint.server.service import Service
from counterpoint.server.transport import read_body

MOST_LISTED = {"files": 10_000, "batches": 100}


def add_batch_routes(app: FastAPI, service: Service, batches: Batches | None) -> None:
    """Routes of files and jobs. `batches` is None where the server keeps none."""

    def kept() -> Batches:
        if batches is None:
            raise ApiError(
                404, "this server keeps no files and no jobs; start it with --data FOLDER", code="no_data_folder"
            )
        return batches

    _add_files(app, service, kept)
    _add_jobs(app, service, kept)


def _add_files(app: FastAPI, service: Service, kept: Any) -> None:
    @app.post("/v1/files", **openapi.uploads("Keep a file of requests", ("file", "purpose")))
    async def upload(request: Request) -> Response:
        files, limits = kept().files, service.limits
        try:
            made = await keep_upload(request, files, most=limits.max_file_bytes, seconds=limits.deadline_s)
        except Failure as error:
            raise _full(error) from None
        return JSONResponse(made.describe())

    @app.get("/v1/files", **openapi.gives("The files", 400, 404))
    async def list_files(request: Request) -> Response:
        files = await asyncio.to_thread(kept().files.all)
        asked = _query(request, "purpose", "order")
        if asked.get("order", "desc") not in ("asc", "desc"):
            raise ApiError(400, f"order is {asked['order']!r:.40}; use asc or desc", param="order")
        found = [one for one in files if asked.get("purpose") in (None, one.purpose)]
        found = found if asked.get("order") == "asc" else found[::-1]
        return JSONResponse(_page(found, asked, MOST_LISTED["files"], MOST_LISTED["files"]))

    @app.get("/v1/files/{file_id}", **openapi.gives("One file", 404))
    async def one_file(file_id: str) -> Response:
        return JSONResponse(kept().files.get(file_id).describe())

    @app.get("/v1/files/{file_id}/content", **openapi.gives("A file's bytes", 404, kind="application/octet-stream"))
    async def content(file_id: str) -> Response:
        files = kept().files
        return FileResponse(files.path(file_id), media_type="application/octet-stream")

    @app.delete("/v1/files/{file_id}", **openapi.gives("Delete a file", 404, 409))
    async def delete(file_id: str) -> Response:
        files, user = kept().files, kept().uses(file_id)
        files.get(file_id)
        if user is not None:
            raise ApiError(409, f"the batch {user} reads this file; cancel it or wait for its end", code="file_in_use")
        await asyncio.to_thread(files.delete, file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def _add_jobs(app: FastAPI, service: Service, kept: Any) -> None:
    @app.post("/v1/batches", **openapi.takes(BatchBody, "Run a file of requests", required=("id", "status")))
    async def create(request: Request) -> Response:
        jobs = kept()
        data = await read_body(request, service.limits.max_body_bytes)
        body = validated(BatchBody, lambda: {k: v for k, v in read_object(data).items() if v is not None})
        try:
            source = jobs.files.get(body.input_file_id)
        except ApiError as error:
            raise ApiError(400, f"{error.message}; upload it first", param="input_file_id", code=error.code) from None
        if source.purpose != "batch":
            raise ApiError(
                400, f"the file is of purpose {source.purpose!r}; upload it for 'batch'", param="input_file_id"
            )
        now = int(time.time())
        expires = body.output_expires_after
        fields = {
            "input_file_id": source.id, "endpoint": body.endpoint, "completion_window": body.completion_window,
            "created_at": now, "expires_at": now + (seconds_of(body.completion_window) or 0),
            "model": service.model_name, "metadata": body.metadata,
            "output_expires_s": None if expires is None else expires.seconds,
        }  # fmt: skip
        return await _told(lambda: jobs.add(**fields))

    @app.get("/v1/batches", **openapi.gives("The jobs, the newest first", 400, 404))
    async def list_jobs(request: Request) -> Response:
        return JSONResponse(_page(kept().all()[::-1], _query(request), MOST_LISTED["batches"], 20))

    @app.get("/v1/batches/{batch_id}", **openapi.gives("One job", 404))
    async def one_job(batch_id: str) -> Response:
        return JSONResponse(kept().get(batch_id).describe())

    @app.post("/v1/batches/{batch_id}/cancel", **openapi.gives("Run no more of a job", 404, 409, 507))
    async def cancel(batch_id: str) -> Response:
        jobs = kept()
        return await _told(lambda: jobs.cancel(batch_id))


async def _told(change: Any) -> Response:
    """The job after a change, which waits for the disk."""
    try:
        batch: Batch = await asyncio.to_thread(change)
    except Failure as error:
        raise _full(error) from None
    return JSONResponse(batch.describe())


def _full(error: Failure) -> ApiError:
    return ApiError(507, str(error), kind="server_error", code="no_room")


def _query(request: Request, *names: str) -> dict[str, str]:
    """The parameters of a list."""
    known = ("limit", "after", *names)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise ApiError(
            400, f"unknown parameter {unknown[0]!r:.80}; known are {', '.join(known)}", param=unknown[0][:80],
            code="unknown_parameter",
        )  # fmt: skip
    return dict(request.query_params)


def _page(found: Sequence[Any], asked: dict[str, str], most: int, default: int) -> dict[str, Any]:
    """One page of a list, after the object that the last one ended with."""
    text = asked.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise ApiError(400, f"limit is {text[:40]!r}; use a whole number from 1 to {most}", param="limit")
    if (after := asked.get("after")) is not None:
        numbers = [number for number, one in enumerate(found) if one.id == after]
        if not numbers:
            raise ApiError(400, f"after is {after[:80]!r}, which is not in the list", param="after")
        found = found[numbers[0] + 1 :]
    shown = [one.describe() for one in found[: int(text)]]
    return {
        "object": "list", "data": shown, "has_more": len(found) > len(shown),
        "first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None,
    }  # fmt: skip
