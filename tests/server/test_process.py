"""The server as a process: signals, and starting again after a kill."""

import json
import re
import signal
import subprocess
import sys

import httpx
import pytest


class Process:
    def __init__(self, *arguments):
        command = [sys.executable, "-m", "counterpoint", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert "http://" in line, self.process.communicate()
        self.base = re.search(r"http://\S+", line)[0]

    def complaints(self):
        """What it said on standard error until its end."""
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def start():
    started = []

    def make(*arguments):
        started.append(Process(*arguments))
        return started[-1]

    yield make
    for one in started:
        one.process.kill()
        one.process.communicate(timeout=30)


LONG = {"prompt": "Once upon a time", "max_tokens": 500, "temperature": 0, "ignore_eos": True, "stream": True}


def events(lines):
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_on_sigterm_what_runs_finishes(start):
    running = start()
    body = LONG | {"max_tokens": 60}
    with httpx.stream("POST", running.base + "/v1/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        running.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert first.startswith("data: {") and rest[-2:] == ["data: [DONE]", ""]
    assert len(events([first, *rest])) > 30
    assert "Traceback" not in running.complaints()


def test_on_sigterm_what_would_take_too_long_is_told(start):
    running = start("--grace", "0.2")
    # A hundred times the grace, so that a client that is held up meanwhile still meets the end.
    body = LONG | {"max_tokens": 1000, "n": 8, "negative_prompt": "There was"}
    with httpx.stream("POST", running.base + "/v1/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.process.send_signal(signal.SIGTERM)
        last = events(lines)[-1]
    assert "the server is ending" in last["error"]["message"]
    assert "Traceback" not in running.complaints()


def test_after_kill_9_it_starts_again_as_if_nothing_had_been(start):
    first = start()
    whole = LONG | {"max_tokens": 5, "stream": False}
    want = httpx.post(first.base + "/v1/completions", json=whole, timeout=60).json()["choices"]
    with httpx.stream("POST", first.base + "/v1/completions", json=LONG, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        first.process.kill()
        with pytest.raises(httpx.HTTPError):
            list(lines)
    again = start("--port", first.base.rpartition(":")[2])
    assert httpx.get(again.base + "/health", timeout=10).json()["status"] == "ok"
    assert httpx.post(again.base + "/v1/completions", json=whole, timeout=60).json()["choices"] == want
