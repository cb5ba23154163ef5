"""Clients that leave, deadlines, full queues, failures: what one server does when things go wrong."""

import contextlib
import http.client as http_client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from patience import PATIENCE_S, http, wait_for
from server.conftest import client_of, make_model, serving

import counterpoint as cp
from counterpoint.engine import Engine
from counterpoint.server import service as service_room
from counterpoint.server import transport
from counterpoint.server import worker as worker_room
from counterpoint.server.errors import ApiError
from counterpoint.server.limits import Limits

LONG = {"prompt": "Once upon", "max_tokens": 400, "temperature": 0, "ignore_eos": True}


@contextlib.contextmanager
def asked(running, **fields):
    """A connection on which this was asked and not yet answered."""
    with contextlib.closing(http_client.HTTPConnection(running.base.removeprefix("http://"))) as connection:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(LONG | fields), headers)
        yield connection


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("guided", [{}, {"negative_prompt": "x", "guidance_scale": 2}])
def test_a_client_that_leaves_frees_its_rows(gate, model, guided, is_stream):
    with serving(model) as running:
        worker = running.service.worker
        with asked(running, stream=is_stream, **guided):
            gate.allow(5)
            wait_for(lambda: worker.num_rows == (2 if guided else 1) and gate.num_passed == 5)
        wait_for(lambda: worker.num_jobs == 0)
        gate.open()
        wait_for(lambda: worker.num_rows == 0)
        assert gate.num_passed < 10  # all of it would be 400
        assert "counterpoint_disconnects_total 1.0" in http.get(running.base + "/metrics").text


def test_a_stream_that_is_left_in_the_middle(gate, model):
    with serving(model) as running:
        gate.allow(20)
        with http.stream("POST", running.base + "/v1/completions", json=LONG | {"stream": True}) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
            assert running.service.worker.num_rows == 1
        wait_for(lambda: running.service.worker.num_jobs == 0)
        gate.open()
        wait_for(lambda: running.service.worker.num_rows == 0)
        assert gate.num_passed < 30


def test_rows_are_free_within_two_steps(gate, model):
    with serving(model) as running:
        worker = running.service.worker
        thread = threading.Thread(target=lambda: running.post(**LONG))
        thread.start()
        gate.allow(5)
        wait_for(lambda: worker.num_rows and gate.num_passed == 5)
        job, left = next(iter(worker._jobs)), threading.Event()
        worker._loop.call_soon_threadsafe(lambda: (job.post(ApiError(503, "told")), job.close(), left.set()))
        assert left.wait(PATIENCE_S)
        gate.open()
        wait_for(lambda: worker.num_rows == 0)
        assert gate.num_passed <= 7
        thread.join()


def test_the_deadline(gate, model):
    with serving(model, limits=Limits(deadline_s=0.4)) as running:
        gate.allow(5)
        answer = running.post(**LONG)
        assert answer.status_code == 408 and answer.headers["x-should-retry"] == "false"
        assert "more than 0.4 s" in answer.json()["error"]["message"]
        asked = {"model": "tiny", "prompt": "a", "max_tokens": 400, "stream": True, "extra_body": {"ignore_eos": True}}
        gate.allow(10)
        with client_of(running) as client, pytest.raises(openai.APIError, match="more than 0.4 s"):
            list(client.completions.create(**asked))
        gate.open()
        running.wait_idle()
        assert gate.num_passed < 20


def test_a_full_queue(gate, model):
    with serving(model, limits=Limits(max_rows=1, max_samples=1, max_waiting=1)) as running:
        gate.allow(5)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(running.post, **LONG | {"max_tokens": 60})
            wait_for(lambda: running.service.worker.num_running)
            second = pool.submit(running.post, **LONG | {"max_tokens": 2})
            wait_for(lambda: running.service.worker.num_waiting)
            refused = running.post(**LONG)
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
            with client_of(running) as client, pytest.raises(openai.RateLimitError):
                client.completions.create(model="tiny", prompt="a")
            gate.open()
            assert first.result().status_code == second.result().status_code == 200
        assert running.complete()


def test_more_branches_than_rows_is_a_mistake_of_the_request(model):
    with serving(model, limits=Limits(max_rows=1)) as running:
        answer = running.post(prompt="Once", negative_prompt="x")
        assert answer.status_code == 400 and "max_rows is 1" in answer.json()["error"]["message"]
        assert running.complete()


def test_a_request_that_fails_does_not_harm_the_others(caplog):
    own = make_model()
    poison = own.encode("%")[0]

    def refuse(module, args):
        if (args[0] == poison).any():
            raise MemoryError("a secret at /some/path")

    own.hf.get_input_embeddings().register_forward_pre_hook(refuse)
    with serving(own) as running:
        want = running.complete("Hello there")["choices"]
        with ThreadPoolExecutor(6) as pool:
            prompts = ["Hello there", "a % b", "Hello there", "%", "Hello there"]
            answers = list(pool.map(lambda p: running.post(**LONG | {"prompt": p, "max_tokens": 8}), prompts))
        assert [a.status_code for a in answers] == [200, 500, 200, 500, 200]
        assert all(a.json()["choices"] == want for a in answers[::2])
        assert "secret" not in answers[1].text and answers[1].json()["error"]["type"] == "server_error"
        running.wait_idle()


def test_an_engine_that_is_lost_is_made_anew(model, monkeypatch, caplog):
    class FailingEngine(Engine):
        """Fails once, in the middle of a request."""

        num_steps = 0

        def step(self):
            FailingEngine.num_steps += 1
            if FailingEngine.num_steps == 10:
                raise RuntimeError("a secret at /some/path")
            return super().step()

    monkeypatch.setattr(service_room, "Engine", FailingEngine)
    with serving(model) as running:
        lost = running.post(**LONG)
        assert lost.status_code == 500 and "secret" not in lost.text
        assert running.complete()["usage"]["completion_tokens"] == 8


def test_a_step_that_outlasts_the_server_ends_quietly(gate, model, monkeypatch):
    monkeypatch.setattr(worker_room, "STEP_S", 0.1)
    with serving(model) as running:
        thread = running.service.worker._thread
        with asked(running, stream=True):
            gate.allow(5)
            wait_for(lambda: gate.num_passed == 5)
    assert thread.is_alive()
    gate.open()
    thread.join()


def test_an_unforeseen_error_shows_nothing_of_the_machine(model, monkeypatch, caplog):
    with serving(model) as running:
        monkeypatch.setattr(running.service, "check_model", lambda name: 1 / 0)
        answer = running.post(prompt="a")
        assert answer.status_code == 500 and "ZeroDivision" not in answer.text and "line" not in answer.text
        monkeypatch.undo()
        assert running.complete()


def test_while_it_ends_it_takes_nothing_new(model):
    with serving(model) as running:
        running.service.worker.is_draining = True
        answer = running.post(prompt="a")
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert http.get(running.base + "/health").status_code == 503


def test_a_body_that_does_not_come(model, monkeypatch):
    monkeypatch.setattr(transport, "BODY_S", 0.2)
    begun = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n"
    with serving(model) as running:
        host, _, port = running.base.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as client:
            client.sendall(begun + b'{"prompt": ')  # and no more
            answer = http_client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 408 and b"did not arrive" in answer.read()


def test_a_request_does_not_depend_on_the_others(model):
    bodies = [
        {"prompt": "Once " * (1 + i % 7), "max_tokens": 5 + 3 * (i % 5), "temperature": 0.9 * (i % 2), "seed": i}
        | ({"negative_prompt": "In the " * (1 + i % 3), "guidance_scale": 1 + i % 4 + 0.5} if i % 3 else {})
        for i in range(16)
    ]
    with serving(model, limits=Limits(max_rows=8, prefill_tokens=16, idle_prefill_tokens=16)) as running:
        alone = [running.post(**body).json()["choices"] for body in bodies]
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda body: running.post(**body).json()["choices"], bodies))
        assert together == alone
        assert running.service.worker.num_rows == 0


def test_what_is_counted(model):
    with serving(model) as running:
        running.complete("Hello", negative_prompt="Bye", guidance_scale=2)
        running.post(prompt="Hello", wrong=1)
        lines = http.get(running.base + "/metrics").text.splitlines()
    for line in (
        'counterpoint_requests_total{route="/v1/completions",status="200"} 1.0',
        'counterpoint_requests_total{route="/v1/completions",status="400"} 1.0',
        "counterpoint_prompt_tokens_total 5.0",
        "counterpoint_branch_tokens_total 11.0",
        "counterpoint_completion_tokens_total 8.0",
        "counterpoint_guided_samples_total 1.0",
        "counterpoint_rows 0.0",
        "counterpoint_first_token_seconds_count 1.0",
    ):
        assert line in lines


def test_the_key_guards_all_but_the_page_and_the_health(model):
    with serving(model, api_key="right") as running:

        def status(path, **headers):
            return http.get(running.base + path, headers=headers).status_code

        assert {status(path) for path in ("/", "/health", "/page/page.js")} == {200}
        assert {status(path) for path in ("/metrics", "/v1/models", "/openapi.json", "/v1/x")} == {401}
        for header in ("Bearer rightly", "Bearer", "right", "Bearer rig\u00e9ht".encode("latin-1")):
            assert status("/v1/models", authorization=header) == 401
        assert status("/v1/models", authorization="Bearer right") == 200


def test_other_origins_only_where_allowed(model):
    with serving(model, cors_origins=("https://a.example",)) as running:
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
            answer = http.get(running.base + "/v1/models", headers={"origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed


def test_an_answer_names_its_request(server):
    answer = server.post(prompt="a", max_tokens=1)
    assert answer.headers["x-request-id"] == answer.json()["id"]
    refused, missing = server.post(prompt="a", max_tokens=-7), http.get(server.base + "/nothing")
    assert (refused.status_code, missing.status_code) == (400, 404)
    assert refused.headers["x-request-id"].startswith("req_") and missing.headers["x-request-id"].startswith("req_")
    body = {"prompt": "a", "max_tokens": 1}
    for own, taken in (("mine-1", True), ("two words", False), ("x" * 129, False)):
        for fields in (body, body | {"nonsense": 1}, body | {"stream": True}):
            answer = http.post(server.base + "/v1/completions", json=fields, headers={"x-request-id": own})
            assert answer.headers.get_list("x-request-id") != [] and (answer.headers["x-request-id"] == own) is taken
            assert len(answer.headers.get_list("x-request-id")) == 1


def test_the_document_is_complete(server):
    document = http.get(server.base + "/openapi.json").json()
    text = json.dumps(document)
    assert set(document["paths"]) >= {"/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics"}
    fields = document["components"]["schemas"]["CompletionBody"]["properties"]
    assert {"negative_prompt", "guidance_scale", "cfg_scale", "guidance", "trace"} <= set(fields)
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text


def test_the_library_and_the_server_share_one_result(server, model):
    done = server.complete("A river", negative_prompt="A road", guidance_scale=2.5, n=2, temperature=0.7, seed=3)
    want = cp.generate(
        model, "A river", negative="A road", guide=cp.Guide(scale=2.5), n=2, temperature=0.7, seed=3, max_tokens=8,
        ignore_eos=True,
    )  # fmt: skip
    assert [c["text"] for c in done["choices"]] == [c.text for c in want]


def test_a_system_prompt_and_a_negative_used_again_are_not_read_again(model):
    system, negative = "You are kind to every guest who knocks. " * 2, "You turn every guest away at the door. " * 2
    body = {"negative_prompt": negative, "guidance_scale": 3.0, "temperature": 0, "max_tokens": 8}
    answers = {}
    for kept in (4096, 0):
        with serving(model, limits=Limits(prefix_tokens=kept)) as running:
            answers[kept] = [running.post(**body, prompt=system + end).json() for end in ("Hello", "Good day")]
    shared = {kept: [answer["usage"]["shared_tokens"] for answer in both] for kept, both in answers.items()}
    assert shared[0] == [0, 0] and shared[4096][0] == 0
    assert shared[4096][1] >= len(model.encode(system)) + len(model.encode(negative)) - 2
    assert [a["choices"] for a in answers[0]] == [a["choices"] for a in answers[4096]]
