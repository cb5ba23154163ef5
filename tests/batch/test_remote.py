"""A job whose lines a server answers."""

from __future__ import annotations

import http.server
import json
import socket
import threading

import pytest

from counterpoint.batch import remote as room
from counterpoint.batch.forms import Lines, OpenAI
from counterpoint.batch.job import Task
from counterpoint.batch.lines import read_line
from counterpoint.batch.remote import Remote, body_of_line, completions_of
from counterpoint.errors import Failure
from counterpoint.guide import Guide


@pytest.fixture
def server(monkeypatch):
    """One that fails as told before it answers; `said` is what it was asked."""
    monkeypatch.setattr(room, "FIRST_WAIT_S", 0.01)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                said.append((self.path, body, dict(self.headers)))
                status, headers = failures.pop(0) if failures else (200, {})
            answer = {"choices": [{"index": 0, "text": body["prompt"]}], "usage": {"completion_tokens": 1}}
            data = json.dumps(
                answer if status == 200 else {"error": {"message": "busy", "param": "n", "code": "c"}}
            ).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data)), "x-request-id": "r"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            return

    lock, said, failures = threading.Lock(), [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        served.said, served.failures = said, failures
        served.address = f"http://127.0.0.1:{served.server_address[1]}"
        yield served
        served.shutdown()
        thread.join()


def tasks(count):
    return iter(
        [Task(n, f"{n:016x}", read_line(json.dumps({"prompt": f"p{n}"}).encode(), n)) for n in range(1, count + 1)]
    )


def run(address, count, **options):
    made = Remote(
        address, body_of=lambda t: body_of_line(t.asked, model="m", defaults={}), answer_of=completions_of, **options
    )
    return {result.task.number: result for result in made(tasks(count))}


def test_every_task_is_answered_with_several_at_once(server):
    results = run(server.address + "/v1/", 40, window=8, api_key="k")
    assert {n: r.answer[0]["text"] for n, r in results.items()} == {n: f"p{n}" for n in range(1, 41)}
    path, body, headers = server.said[0]
    assert path == "/v1/completions" and body["model"] == "m" and headers["Authorization"] == "Bearer k"


def test_what_passes_is_tried_again(server):
    server.failures += [(503, {}), (429, {"Retry-After": "0.02"}), (500, {})]
    results = run(server.address, 1, tries=5)
    assert results[1].error is None and len(server.said) == 4


def test_what_stays_wrong_is_an_error_of_its_line(server):
    server.failures += [(400, {})]
    first = run(server.address, 1)[1]
    assert (str(first.error), first.error.param, first.error.code) == ("busy", "n", "c") and len(server.said) == 1
    server.failures += [(503, {})] * 3
    assert str(run(server.address, 1, tries=3)[1].error) == "busy"


def test_no_server_ends_the_job():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens, and nobody else can
        with pytest.raises(Failure, match="can't be reached .*; start it"):
            run(f"http://127.0.0.1:{silent.getsockname()[1]}", 3, tries=2, window=2)


@pytest.mark.parametrize(
    "value, wait", [("2", 2.0), ("-1", 0.0), (None, None), ("soon", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)]
)
def test_retry_after(value, wait):
    assert room._named_wait(value) == wait


def test_a_line_becomes_a_request():
    line = read_line(
        json.dumps(
            {"prompt": "p", "negative": "n", "guide": {"scale": 2, "space": "prob"}, "stop_ids": [3], "max_tokens": 4}
        ).encode()
    )
    path, body = body_of_line(line, model=None, defaults={"temperature": 0.5, "max_tokens": 9})
    assert path == "/v1/completions" and body == {
        "prompt": "p", "negative_prompt": "n", "guidance_scale": 2.0, "guidance": {"space": "prob"}, "temperature": 0.5,
        "max_tokens": 4, "stop_token_ids": [3],
    }  # fmt: skip
    assert line.guide == Guide(scale=2, space="prob") and Lines().name != OpenAI().name
