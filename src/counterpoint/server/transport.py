"""Bodies in, events out, and clients that go away in the middle."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from counterpoint.server.errors import ApiError

T = TypeVar("T")

BODY_S = 30.0  # for a client to send its body
DRAINED_BYTES = 128 << 20  # read and thrown away, so that the reason for refusing a body reaches whoever sends it


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: it is no JSON by its header, or packed in an unknown way (415), larger than `most` bytes (413), or too slow (408).
        ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the content type is {kind[:60]!r}; send application/json")
    unpack = _unpacker(request.headers.get("content-encoding", ""))
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > DRAINED_BYTES:
                    break
                if size <= most and part:
                    parts.append(part)
    except TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {BODY_S:g} s; send it faster", kind="timeout_error"
        ) from None
    if size > most:
        raise ApiError(413, f"the body has {size} bytes or more; this server reads up to {most}", code="body_too_large")
    return unpack(b"".join(parts), most)


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """What undoes a content encoding, up to so many bytes.

    Raises:
        ApiError: it is none that is known; from the function, the body is not so packed or too large.
    """
    kinds = [kind for one in encoding.split(",") if (kind := one.strip().lower()) not in ("", "identity")]
    kind = ", ".join(kinds)
    if not kinds:
        return lambda data, most: data
    if kind not in ("gzip", "x-gzip", "deflate"):
        raise ApiError(415, f"the content encoding is {kind[:60]!r}; send the body plain, or by gzip or deflate")

    def unpack(data: bytes, most: int) -> bytes:
        made, left = b"", data
        while left:  # gzip's files may stand one after the other
            stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # with the header of gzip or of zlib
            try:
                made += stream.decompress(left, most + 1 - len(made))
            except zlib.error:
                raise ApiError(
                    400, f"the body is no {kind}, as its header says; send it plain", code="invalid_body"
                ) from None
            if len(made) > most:
                raise ApiError(413, f"the body has more than {most} bytes unpacked; send less", code="body_too_large")
            if not stream.eof:
                raise ApiError(400, f"the body's {kind} ends early; send all of it", code="invalid_body")
            left = stream.unused_data
        return made

    return unpack


async def unless_gone(receive: Receive, result: Awaitable[T]) -> T:
    """The result, unless the client goes away before.

    Raises:
        ClientDisconnect: it did; `result` is cancelled.
    """
    gone, working = asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(result)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (gone, working):
            task.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)


class EventStream(Response):
    """Server-sent events. However it ends (finished, client gone, too slow a reader), `on_close` is called.

    Args:
        events: complete events.
        most_s: for the whole of it, a client that does not read included.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], *, on_close: Callable[[bool], None], most_s: float, headers: dict[str, str]
    ) -> None:
        self.status_code, self.background = 200, None
        self._events, self._on_close, self._most_s = events, on_close, most_s
        # Proxies that collect an answer before they pass it on are told not to.
        self.init_headers({**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_whole = False
        try:
            async with asyncio.timeout(self._most_s):
                await unless_gone(receive, self._write(send))
            is_whole = True
        except (ClientDisconnect, TimeoutError, OSError):
            pass
        finally:
            self._on_close(is_whole)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
