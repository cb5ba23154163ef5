"""`/v1/files` and `/v1/batches` with the official client: a job is answered once, whatever happens to the server."""

import json
import signal
import subprocess
import sys

import openai
import pytest
import torch
from patience import PATIENCE_S, http, wait_for
from server.conftest import client_of, make_model, serving
from server.test_process import Process

from counterpoint.errors import UsageError
from counterpoint.server.batches import files as files_room
from counterpoint.server.batches.folder import DataFolder
from counterpoint.server.limits import Limits

ASKED = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


def request(name, url="/v1/completions", **body):
    return {"custom_id": name, "method": "POST", "url": url, "body": ASKED | body}


def upload(client, records, **more):
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    return client.files.create(file=("in.jsonl", text.encode()), purpose="batch", **more)


def start(client, records, endpoint="/v1/completions", **more):
    source = upload(client, records)
    return client.batches.create(input_file_id=source.id, endpoint=endpoint, completion_window="24h", **more)


def until(client, batch, status):
    """The job once it has come to that end."""
    now = [batch]

    def is_over():
        now[0] = client.batches.retrieve(batch.id)
        return now[0].status in ("completed", "failed", "expired", "cancelled")

    wait_for(is_over, lambda: now[0])
    assert now[0].status == status, now[0]
    return now[0]


def lines_of(client, file_id):
    return [] if file_id is None else [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def wait_for_some(client, batch, num_lines=3):
    wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed >= num_lines)


@pytest.fixture
def running(model, tmp_path):
    with serving(model, data=DataFolder(tmp_path / "data"), limits=Limits(max_rows=8, batch_rows=2)) as made:
        yield made


@pytest.fixture
def jobs(running):
    with client_of(running) as made:
        yield made


def test_upload_start_poll_and_fetch(jobs, running):
    records = [request(f"l{k}", prompt=f"Line {k}", negative_prompt="In the end", guidance_scale=2) for k in range(9)]
    records[4]["body"]["temperature"] = -1
    batch = start(jobs, records, metadata={"night": "first"})
    assert (batch.object, batch.status, batch.metadata, batch.model) == (
        "batch",
        "validating",
        {"night": "first"},
        "tiny",
    )
    batch = until(jobs, batch, "completed")
    assert batch.request_counts.model_dump() == {"total": 9, "completed": 8, "failed": 1}
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at < batch.expires_at
    answers = {one["custom_id"]: one for one in lines_of(jobs, batch.output_file_id)}
    assert sorted(answers) == [f"l{k}" for k in range(9) if k != 4]
    for name, one in answers.items():
        live = running.post(**records[int(name[1:])]["body"]).json()
        assert one["response"]["body"]["choices"] == live["choices"] and one["response"]["status_code"] == 200
        assert one["error"] is None
    (wrong,) = lines_of(jobs, batch.error_file_id)
    assert wrong["custom_id"] == "l4" and wrong["response"]["status_code"] == 400
    assert wrong["response"]["body"]["error"]["param"] == "temperature"
    assert batch.usage.output_tokens == 8 * 12 and batch.usage.total_tokens == 8 * 12 + sum(
        len("Line 0") for _ in answers
    )
    output = jobs.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output" and output.bytes == len(jobs.files.content(output.id).content)


@pytest.mark.parametrize(
    "url, body, read",
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}, lambda b: b["choices"][0]["message"]),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 5}, lambda b: b["output"][0]["content"]),
    ],
)  # fmt: skip
def test_each_endpoint(jobs, running, url, body, read):
    body = {"temperature": 0, "seed": 1} | body
    record = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    batch = until(jobs, start(jobs, [record], url), "completed")
    (answer,) = lines_of(jobs, batch.output_file_id)
    live = read(running.post(url, **body).json())
    assert read(answer["response"]["body"]) == live and batch.usage.input_tokens > 0


def test_lists_and_deletes(jobs):
    sources = [upload(jobs, [request("a", prompt="A")]) for _ in range(5)]
    assert [one.id for one in jobs.files.list(limit=2)] == [one.id for one in sources[::-1]]  # page after page
    assert [one.id for one in jobs.files.list(order="asc", purpose="batch")] == [one.id for one in sources]
    assert list(jobs.files.list(purpose="batch_output")) == []
    assert jobs.files.retrieve(sources[0].id) == sources[0]
    assert jobs.files.delete(sources[0].id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        jobs.files.content(sources[0].id)
    batches = [
        jobs.batches.create(input_file_id=one.id, endpoint="/v1/completions", completion_window="1h")
        for one in sources[1:]
    ]
    assert [one.id for one in jobs.batches.list(limit=3)] == [one.id for one in batches[::-1]]
    for one in batches:
        until(jobs, one, "completed")


def test_cancel_keeps_what_was_answered(jobs):
    first = start(jobs, [request(f"l{k}", prompt=f"Line {k}", max_tokens=200) for k in range(3000)])
    queued = start(jobs, [request("q", prompt="Queued")])
    wait_for_some(jobs, first)
    with pytest.raises(openai.ConflictError, match="reads this file"):
        jobs.files.delete(first.input_file_id)
    assert jobs.batches.cancel(queued.id).status == "cancelling"
    assert jobs.batches.cancel(first.id).status == "cancelling"
    first, queued = until(jobs, first, "cancelled"), until(jobs, queued, "cancelled")
    assert first.cancelling_at <= first.cancelled_at and queued.output_file_id is None
    answers = lines_of(jobs, first.output_file_id)
    assert 3 <= len(answers) == first.request_counts.completed < 3000
    assert len({one["custom_id"] for one in answers}) == len(answers)
    with pytest.raises(openai.ConflictError, match="cancelled already"):
        jobs.batches.cancel(first.id)
    assert jobs.files.delete(first.input_file_id).deleted


def test_live_requests_do_not_wait_for_jobs(jobs, running):
    batch = start(jobs, [request(f"l{k}", prompt=f"Line {k}", max_tokens=300) for k in range(1000)])
    wait_for(lambda: running.service.worker.num_background == 8)
    whole = running.complete("Once upon", n=8, max_tokens=5, negative_prompt="In the end")
    assert len(whole["choices"]) == 8 and jobs.batches.retrieve(batch.id).request_counts.completed < 1000
    jobs.batches.cancel(batch.id)
    until(jobs, batch, "cancelled")
    running.wait_idle()


def test_broken_lines_are_named_and_counted(jobs):
    records = [
        request("a", prompt="A"),
        "{broken",
        request("a", prompt="again"),
        request("c", "/v1/responses", input="x"),
    ]
    batch = until(jobs, start(jobs, records), "failed")
    assert [(one.line, one.param) for one in batch.errors.data] == [(2, None), (3, "custom_id"), (4, "url")]
    assert "not valid JSON" in batch.errors.data[0].message and "earlier line" in batch.errors.data[1].message
    many = until(jobs, start(jobs, ["?"] * 150), "failed")
    assert len(many.errors.data) == 101 and "150 lines are broken" in many.errors.data[-1].message
    assert until(jobs, start(jobs, ["", " "]), "failed").errors.data[0].code == "empty_file"


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"completion_window": "soon"}, "completion_window"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"metadata": {"a": "x" * 600}}, "metadata"),
        ({"priority": "high"}, "priority"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
    ],
)
def test_what_a_job_cannot_be_is_refused_by_name(jobs, running, fields, param):
    source = upload(jobs, [request("a", prompt="A")])
    body = {"input_file_id": source.id, "endpoint": "/v1/completions", "completion_window": "24h"} | fields
    answer = running.post("/v1/batches", **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_what_is_no_upload_is_refused_by_name(running):
    def post(files=None, **data):
        return http.post(running.base + "/v1/files", files=files, data=data)

    good = {"file": ("a.jsonl", b"{}")}
    for answer, status, words in (
        (post(good, purpose="fine-tune"), 400, "for batches only"),
        (post(good), 400, "'purpose' is missing"),
        (post({"other": ("a", b"b")}, purpose="batch"), 400, "unknown fields 'other'"),
        (post({"file": ("a", b"")}, purpose="batch"), 400, "is empty"),
        (post(good, **{"purpose": "batch", "expires_after[anchor]": "now"}), 400, "expires_after"),
        (http.post(running.base + "/v1/files", json={}), 415, "multipart/form-data"),
        (
            http.post(running.base + "/v1/files", content=b"x", headers={"content-type": "multipart/form-data"}),
            400,
            "form",
        ),
        (http.get(running.base + "/v1/files?limit=0"), 400, "limit"),
        (http.get(running.base + "/v1/files?color=red"), 400, "unknown parameter"),
        (http.get(running.base + "/v1/batches?after=batch_0"), 400, "not in the list"),
        (http.get(running.base + "/v1/batches/batch_0"), 404, "there is no batch"),
        (http.get(running.base + "/v1/files/..%2f..%2fx/content"), 404, ""),
    ):
        assert answer.status_code == status and words in answer.json()["error"]["message"], answer.text
    assert post(
        good, **{"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}
    ).json()["expires_at"]


def test_a_file_that_is_too_large_is_refused(model, tmp_path):
    with serving(model, data=DataFolder(tmp_path), limits=Limits(max_file_bytes=1000)) as running:
        for size in (1001, 200_000):
            answer = http.post(
                running.base + "/v1/files", files={"file": ("a", b"x" * size)}, data={"purpose": "batch"}
            )
            assert answer.status_code == 413, answer.text
        assert list((tmp_path / "files").iterdir()) == []


def test_without_a_folder_every_route_says_so(client, server):
    for call in (
        lambda: upload(client, ["{}"]),
        lambda: client.files.list(),
        lambda: client.batches.list(),
        lambda: client.batches.retrieve("batch_0"),
        lambda: client.batches.create(input_file_id="x", endpoint="/v1/completions", completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError, match="start it with --data FOLDER"):
            call()


def test_what_is_over_its_time_is_told_as_expired(jobs, running, monkeypatch):
    source = upload(jobs, [request(f"l{k}", prompt=f"Line {k}", max_tokens=200) for k in range(1000)])
    batch = jobs.batches.create(
        input_file_id=source.id, endpoint="/v1/completions", completion_window="2h",
        extra_body={"output_expires_after": {"anchor": "created_at", "seconds": 3600}},
    )  # fmt: skip
    wait_for_some(jobs, batch)
    clock, later = files_room.time.time, 2 * 3600
    monkeypatch.setattr(files_room.time, "time", lambda: clock() + later)
    batch = until(jobs, batch, "expired")
    answered, left = lines_of(jobs, batch.output_file_id), lines_of(jobs, batch.error_file_id)
    assert {one["custom_id"] for one in answered + left} == {f"l{k}" for k in range(1000)}
    assert len(answered) + len(left) == 1000 and len(answered) >= 3
    assert left[0]["response"] is None and left[0]["error"]["code"] == "batch_expired"
    # The output has a time of its own, after which it is gone.
    later += 3700
    with pytest.raises(openai.NotFoundError):
        jobs.files.content(batch.error_file_id)
    assert [one.id for one in jobs.files.list()] == [source.id]


def test_a_job_goes_on_at_the_next_start_on_the_same_model_only(model, tmp_path):
    records = [request(f"l{k}", prompt=f"Line {k}", max_tokens=200) for k in range(2000)]
    with serving(model, data=DataFolder(tmp_path)) as running, client_of(running) as client:
        batches = [start(client, records), start(client, records[:20])]
        wait_for_some(client, batches[0])
        with pytest.raises(UsageError, match="belongs to a server that runs"):
            DataFolder(tmp_path)
    other = make_model()
    with torch.no_grad():
        next(other.hf.parameters()).add_(0.01)
    with serving(other, data=DataFolder(tmp_path)) as running, client_of(running) as client:
        first = until(client, batches[0], "failed")
        assert "holds answers of another job: model was" in first.errors.data[0].message
        assert until(client, batches[1], "completed").request_counts.completed == 20


def test_after_kill_9_a_job_goes_on(tmp_path):
    arguments = ("--data", str(tmp_path / "data"), "--max-rows", "4")
    records = [request(f"l{k}", prompt=f"Chapter {k}.", max_tokens=40, temperature=0.9, seed=k) for k in range(80)]
    first = Process(*arguments, steps=200)
    try:
        with openai.OpenAI(base_url=first.base + "/v1", api_key="none", timeout=PATIENCE_S) as client:
            batch = start(client, records)
            wait_for_some(client, batch, 5)
            first.process.send_signal(signal.SIGKILL)
    finally:
        first.kill()
    (journal,) = (tmp_path / "data" / "batches").glob("*.answers.jsonl")
    earlier = {json.loads(line)["response"]["request_id"] for line in journal.read_bytes().split(b"\n")[:-1]}
    second = Process(*arguments)
    try:
        with openai.OpenAI(base_url=second.base + "/v1", api_key="none", timeout=PATIENCE_S) as client:
            batch = until(client, batch, "completed")
            answers = lines_of(client, batch.output_file_id)
            assert sorted(one["custom_id"] for one in answers) == sorted(one["custom_id"] for one in records)
            kept = {one["response"]["request_id"] for one in answers}
            assert 5 <= len(earlier) < 80 and earlier <= kept  # none was computed twice
            for one in answers[::9]:
                body = records[int(one["custom_id"][1:])]["body"]
                live = http.post(second.base + "/v1/completions", json=body).json()
                assert one["response"]["body"]["choices"] == live["choices"]
    finally:
        second.kill()


def test_a_folder_that_cannot_be_is_told_before_a_model_is_loaded(tmp_path):
    (tmp_path / "taken").write_text("x")
    command = [sys.executable, "-m", "counterpoint", "serve", "--port", "0", "--data", str(tmp_path / "taken")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "can't be used" in done.stderr and len(done.stderr.splitlines()) == 1
