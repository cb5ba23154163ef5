"""Put another server's own tests to ours, and count what passes.

    python scripts/peers.py vllm FOLDER tests/entrypoints/openai/completion/test_completion.py ...
    python scripts/peers.py llama.cpp FOLDER unit/test_chat_completion.py ...

FOLDER is what the peer's tests are run from, got elsewhere: the unpacked source of vLLM (its package on PyPI has the tests), or
llama.cpp's `tools/server/tests`. Nothing of theirs is kept here. Whatever their files import of the peer itself is a stand-in,
and where they start the peer's server they get one of ours, in this process. Their flags are read as far as we have them: name,
key, context, template, origins. Needs pytest, pytest-asyncio, pytest-timeout and what the peer's files import.

Only tests that send a request are counted. One line of JSON for each, then the counts.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import socket
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import openai
import pytest
import uvicorn

import counterpoint as cp
from counterpoint.server.app import create_app
from counterpoint.server.service import Service

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}{% for message in messages %}<|im_start|>"
    "{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}{{ call.function | tojson }}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STAND_INS = ("vllm", "openai_harmony", "pybase64")
MODEL = os.environ.get("PEERS_MODEL", "bundled")


@functools.cache
def model() -> Any:
    loaded = cp.load(MODEL)
    loaded.tokenizer.chat_template = TEMPLATE
    return loaded


class Server:
    """One of ours, in a thread, that counts its requests."""

    num_requests = 0

    def __init__(self, *, port: int = 0, **options: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port = self._socket.getsockname()[1]
        app = create_app(model(), **options)

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            Server.num_requests += scope["type"] == "http"
            await app(scope, receive, send)

        self._server = uvicorn.Server(uvicorn.Config(counted, log_config=None, timeout_graceful_shutdown=2))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


class RemoteServer:
    """What vLLM's tests start, by the methods that they call."""

    DUMMY_API_KEY = "none"

    def __init__(self, name: str, args: Any = (), **_: Any) -> None:
        given = dict(zip(args, [*args[1:], ""]))
        self._server = Server(model_name=given.get("--served-model-name", name), api_key=given.get("--api-key"))
        self.url_root, self.port = f"http://127.0.0.1:{self._server.port}", self._server.port

    def __enter__(self) -> RemoteServer:
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.stop()

    def url_for(self, *parts: str) -> str:
        return "/".join((self.url_root, *parts))

    def get_client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url_for("v1"), api_key=self.DUMMY_API_KEY, **options)

    def get_async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url_for("v1"), api_key=self.DUMMY_API_KEY, **options)


class StandIn(types.ModuleType):
    """A module of the peer's of which every name exists and does nothing."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "get_tokenizer":
            return lambda *_, **__: model().tokenizer
        is_class = name[0].isupper() and not name.isupper()
        return type(name, (), {"__init__": lambda self, *_, **__: None}) if is_class else MagicMock()


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        is_one = name.partition(".")[0] in STAND_INS
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_one else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def as_vllm(folder: Path) -> None:
    (folder / "tests" / "__init__.py").touch()
    sys.meta_path.insert(0, Finder())
    utils = StandIn("tests.utils")
    utils.__dict__.update(RemoteOpenAIServer=RemoteServer, RemoteLaunchRenderServer=RemoteServer, ROCM_EXTRA_ARGS=[])
    sys.modules["tests.utils"] = utils


def as_llama_cpp(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    sys.modules.setdefault("wget", StandIn("wget"))
    import utils  # the peer's

    def start(self: Any, **_: Any) -> None:
        if self.server_embeddings or self.server_reranking or self.lora_files or self.mmproj_url or self.models_dir:
            raise RuntimeError("a flag that we do not have")
        model().tokenizer.chat_template = Path(self.chat_template_file or os.devnull).read_text() or TEMPLATE
        origins = tuple(filter(None, (self.cors_origins or "").split(",")))
        options = {"model_name": self.model_alias or "peer", "api_key": self.api_key, "cors_origins": origins}
        self.ours = Server(port=self.server_port, **options)
        utils.server_instances.add(self)

    def stop(self: Any) -> None:
        utils.server_instances.discard(self)
        if getattr(self, "ours", None):
            self.ours.stop()
            self.ours = None

    utils.ServerProcess.start, utils.ServerProcess.stop = start, stop
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.match_regex = lambda *_: True  # texts of its own models
    Service.check_model = lambda *_: None  # it takes any name


class Count:
    """pytest's plugin: the outcome of each test that sends a request."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0, "no request": 0}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Any:
        Server.num_requests, item.failure, item.is_skipped = 0, "", False
        yield
        outcome = "skipped" if item.is_skipped else "failed" if item.failure else "passed"
        outcome = outcome if Server.num_requests else "no request"
        self.counts[outcome] += 1
        print("\n" + json.dumps({"test": item.nodeid, "outcome": outcome, "why": item.failure[:200]}))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = (yield).get_result()
        item.is_skipped |= report.skipped
        if report.failed:
            lines = [line[4:] for line in str(report.longrepr).splitlines() if line.startswith("E   ")]
            item.failure = item.failure or " ".join(lines) or "failed"


def main() -> int:
    if len(sys.argv) < 4 or sys.argv[1] not in ("vllm", "llama.cpp"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[2]).resolve()
    os.chdir(folder)
    {"vllm": as_vllm, "llama.cpp": as_llama_cpp}[sys.argv[1]](folder)
    count = Count()
    plain = [
        "--continue-on-collection-errors",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "-W",
        "ignore",
        "--timeout",
        "150",
        "--tb=short",
    ]
    pytest.main([*plain, *sys.argv[3:]], plugins=[count])
    print(json.dumps(count.counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
