"""A server for this process alone, on a free port of this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from counterpoint.models.model import Model
from counterpoint.server.app import create_app
from counterpoint.server.limits import Limits


@contextlib.contextmanager
def local_server(model: Model, *, window: int) -> Iterator[str]:
    """Serve a model to at most `window` requests at once, and give the address. It ends with the block."""
    limits = Limits(max_waiting=64 * window, deadline_s=24 * 3600.0)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(model, limits=limits), log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
