"""The server as a process: signals, and starting again after a kill."""

import json
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from patience import PATIENCE_S, http

SLOWLY = Path(__file__).parents[1] / "slowly.py"


class Process:
    """The command in a process of its own.

    Args:
        steps: what it works at takes so many steps quickly, and the others half a second each; None is quickly.
    """

    def __init__(self, *arguments, steps=None):
        program = ["-m", "counterpoint"] if steps is None else [str(SLOWLY), str(steps)]
        command = [sys.executable, *program, "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert "http://" in line, self.process.communicate()
        self.base = re.search(r"http://\S+", line)[0]

    def complaints(self):
        """What it said on standard error until its end."""
        return self.process.communicate(timeout=PATIENCE_S)[1]

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start():
    started = []

    def make(*arguments, **options):
        started.append(Process(*arguments, **options))
        return started[-1]

    yield make
    for one in started:
        one.kill()


LONG = {"prompt": "Once upon a time", "max_tokens": 500, "temperature": 0, "ignore_eos": True, "stream": True}


def events(lines):
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_on_sigterm_what_runs_finishes(start):
    running = start("--grace", str(PATIENCE_S), steps=55)
    body = LONG | {"max_tokens": 60}
    with http.stream("POST", running.base + "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        running.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert first.startswith("data: {") and rest[-2:] == ["data: [DONE]", ""]
    assert len(events([first, *rest])) > 30
    assert "Traceback" not in running.complaints()


def test_on_sigterm_what_would_take_too_long_is_told(start):
    running = start("--grace", "0.2", steps=20)
    with http.stream("POST", running.base + "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.process.send_signal(signal.SIGTERM)
        last = events(lines)[-1]
    assert "the server is ending" in last["error"]["message"]
    assert "Traceback" not in running.complaints()


def free_port():
    """A port that nobody listens on, and below those that the system hands out, so that nobody is given it meanwhile."""
    for _ in range(100):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port := random.SystemRandom().randrange(20_000, 32_000)))
                return port
            except OSError:
                continue
    raise OSError("no port is free")


def test_after_kill_9_it_starts_again_as_if_nothing_had_been(start):
    port = str(free_port())
    first = start("--port", port, steps=20)
    whole = LONG | {"max_tokens": 5, "stream": False}
    want = http.post(first.base + "/v1/completions", json=whole).json()["choices"]
    with http.stream("POST", first.base + "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()
        next(lines)
        first.process.kill()
        with pytest.raises(httpx.HTTPError):
            list(lines)
    again = start("--port", port)
    assert http.get(again.base + "/health").json()["status"] == "ok"
    assert http.post(again.base + "/v1/completions", json=whole).json()["choices"] == want
