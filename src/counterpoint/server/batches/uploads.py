"""Uploads: forms with a file in them, as OpenAI's clients send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from counterpoint.server.batches.files import PURPOSES, Files, StoredFile, synced
from counterpoint.server.errors import ApiError
from counterpoint.server.transport import DRAINED_BYTES

MOST_FIELDS = 16
FORM_BYTES = 1 << 16  # of a form beside its file
FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")


async def keep_upload(request: Request, files: Files, *, most: int, seconds: float) -> StoredFile:
    """Read a form and keep its file.

    Raises:
        ApiError: the form can't be (400, 415), its file is too large (413), or it is too slow (408).
        ClientDisconnect: the client went away.
        Failure: there is no room.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(415, f"the content type is {kind[:60]!r}; send multipart/form-data with file and purpose")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "the form has a content encoding; send it plain")
    body = _Bounded(request, most + FORM_BYTES)
    parser = MultiPartParser(request.headers, body.parts(), max_files=1, max_fields=MOST_FIELDS, max_part_size=4096)
    try:
        async with asyncio.timeout(seconds):
            form = await parser.parse()
    except TimeoutError:
        raise ApiError(
            408, f"the file did not arrive within {seconds:g} s; send it faster", kind="timeout_error"
        ) from None
    except (MultiPartException, KeyError, AssertionError) as error:
        body.check()
        raise ApiError(
            400, f"the form can't be read: {' '.join(str(error).split())[:200]}", code="invalid_body"
        ) from None
    try:
        body.check()
        upload, expires_s = _read(form.multi_items(), most)
        part = files.new_part()
        await asyncio.to_thread(synced, part, upload.file)
        name = (upload.filename or "upload")[:255]
        return await asyncio.to_thread(files.keep, part, filename=name, purpose="batch", expires_s=expires_s)
    finally:
        await form.close()
        for file in parser._files_to_close_on_error:  # a part that was cut off is in no form
            file.close()


@dataclass(slots=True)
class _Bounded:
    """A body up to so many bytes; the rest is read and thrown away, so that the reason for refusing it is heard."""

    request: Request
    most: int
    size: int = 0

    async def parts(self) -> AsyncIterator[bytes]:
        async for part in self.request.stream():
            self.size += len(part)
            if self.size > self.most + DRAINED_BYTES:
                return
            if self.size <= self.most:
                yield part

    def check(self) -> None:
        if self.size > self.most:
            raise ApiError(
                413, f"the file has more than {self.most - FORM_BYTES} bytes; send less, or in parts", param="file",
                code="file_too_large",
            )  # fmt: skip


def _read(items: list[tuple[str, UploadFile | str]], most: int) -> tuple[UploadFile, int | None]:
    names = [name for name, _ in items]
    unknown = [name for name in names if name not in FIELDS]
    if unknown:
        raise ApiError(
            400, f"unknown fields {', '.join(f'{name!r:.80}' for name in unknown)}; leave them out", param=unknown[0],
            code="unknown_parameter",
        )  # fmt: skip
    given = dict(items)
    twice = [name for name in given if names.count(name) > 1]
    if twice:
        raise ApiError(400, f"{twice[0]} is given {names.count(twice[0])} times; give it once", param=twice[0])
    for name in ("file", "purpose"):
        if name not in given:
            raise ApiError(
                400, f"the field {name!r} is missing; give it", param=name, code="missing_required_parameter"
            )
    upload, purpose = given["file"], given["purpose"]
    if isinstance(upload, str):
        raise ApiError(400, "file is a text; send it as a file, with a filename", param="file")
    if purpose not in PURPOSES:
        raise ApiError(
            400, f"purpose is {purpose!r:.60}; this server keeps files for batches only, so use 'batch'",
            param="purpose", code="unsupported_parameter",
        )  # fmt: skip
    if (upload.size or 0) > most:
        raise ApiError(
            413,
            f"the file has {upload.size} bytes; this server takes up to {most}",
            param="file",
            code="file_too_large",
        )
    if not upload.size:
        raise ApiError(400, "the file is empty; send one request a line", param="file", code="empty_file")
    anchor, seconds = given.get("expires_after[anchor]"), given.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return upload, None
    if anchor != "created_at" or not (isinstance(seconds, str) and seconds.isdigit() and 0 < int(seconds) < 2**31):
        raise ApiError(
            400, f"expires_after has anchor {anchor!r:.40} and seconds {seconds!r:.40}; use created_at and a whole number",
            param="expires_after",
        )  # fmt: skip
    return upload, int(seconds)
