"""One server process: load, listen, and end in order."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from counterpoint.models.model import Model
from counterpoint.server.app import create_app
from counterpoint.server.batches.folder import DataFolder
from counterpoint.server.errors import ApiError
from counterpoint.server.limits import Limits, rows_in, token_bytes
from counterpoint.server.service import Service
from counterpoint.watch import Watch

TOLD_S = 5.0  # after they were told, for answers to be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where and how to listen.

    Args:
        host, port: an address; port 0 is any free one.
        api_key: asked for where it is given.
        model_name: what clients call the model; None is the last part of the model's own name.
        cors_origins: web pages of these origins may use it.
        grace_s: on SIGTERM, how long running requests may go on.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    model_name: str | None = None
    cors_origins: tuple[str, ...] = ()
    grace_s: float = 30.0


def within_memory(model: Model, limits: Limits, num_bytes: int) -> Limits:
    """The same limits with the number of rows that fits into a memory, counted for rows as long as they can get.

    Kept prefixes take a quarter of the memory at most, and rows the rest.

    Raises:
        UsageError: none fits, or the model's rows have no size that can be told.
    """
    longest = model.context_len or 0
    if limits.max_prompt_tokens is not None and limits.max_tokens is not None:
        asked = limits.max_prompt_tokens + limits.max_tokens
        longest = min(longest, asked) if longest else asked
    each = token_bytes(model)
    kept = min(limits.prefix_tokens, int(num_bytes / 4 / each))
    rows = rows_in(model, num_bytes - int(kept * each), longest or 2048)
    return dataclasses.replace(limits, max_rows=rows, prefix_tokens=kept)


def serve(
    model: Model,
    limits: Limits,
    listening: Listening,
    *,
    models: Mapping[str, Model] | None = None,
    watches: Mapping[str, Watch] | None = None,
    data: DataFolder | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    # No answer tells where on the machine the model lies.
    model.name = listening.model_name or Path(model.name).name
    app = create_app(
        model,
        models=models,
        watches=watches,
        data=data,
        limits=limits,
        api_key=listening.api_key,
        cors_origins=listening.cors_origins,
    )
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    config = uvicorn.Config(
        app,
        host=listening.host,
        port=listening.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(listening.grace_s + TOLD_S) + 1,
    )
    _Server(config, app.state.service, listening.grace_s).run()


class _Server(uvicorn.Server):
    """On a signal: takes nothing new, lets what runs finish for a while, tells the rest."""

    def __init__(self, config: uvicorn.Config, service: Service, grace_s: float) -> None:
        super().__init__(config)
        self._service, self._grace_s = service, grace_s

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What lives as long as the process is not collected: going through it holds every stream up for a third of a second.
            gc.collect()
            gc.freeze()
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            limits = self._service.limits
            print(
                f"counterpoint: serving {self._service.model_name} on http://{f'[{host}]' if ':' in host else host}:{port}"
                f" ({limits.max_rows} rows, {limits.max_waiting} may wait, {limits.prefix_tokens} tokens kept for prompts alike)",
                flush=True,
            )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.worker.is_draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list | None = None) -> None:
        ending = asyncio.create_task(self._tell_after())
        await super().shutdown(sockets)
        ending.cancel()

    async def _tell_after(self) -> None:
        await asyncio.sleep(self._grace_s)
        self._service.worker.end(
            ApiError(503, "the server is ending; try another or later", kind="server_error", retry_after_s=5)
        )
