"""A job answers each line once, whatever happens on the way."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import wait_for

from counterpoint.batch import job as job_room
from counterpoint.batch.files import LineFile, open_lines
from counterpoint.batch.forms import Lines, OpenAI, form_of
from counterpoint.batch.job import Progress, Result, Shard, key_of_line, run_job
from counterpoint.batch.journal import Journal
from counterpoint.errors import Failure, UsageError

IDENTITY = {"model": "m"}


def journal(path, form=None, **changes):
    arguments = {"identity": IDENTITY, "facts": {}, "read": (form or Lines()).entry, **changes}
    return Journal(str(path), **arguments)


def echo(tasks):
    for task in tasks:
        if task.asked.prompt == "fail":
            yield Result(task, error=ValueError("no"))
        else:
            yield Result(task, answer=[{"text": task.asked.prompt}])


def lines(*prompts):
    return [json.dumps({"prompt": prompt}).encode() + b"\n" for prompt in prompts]


def answers(path):
    with open_lines(str(path)) as source:
        return [json.loads(line) for line in source]


def run(path, source, runner=echo, **changes):
    kept = journal(path, **changes)
    try:
        return run_job(source, Lines(), runner, kept)
    finally:
        kept.close()


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_what_is_answered_is_not_asked_again(tmp_path, name):
    path, asked = tmp_path / name, []

    def three(tasks):
        for number, result in enumerate(echo(tasks)):
            if number == 3:
                raise KeyboardInterrupt
            asked.append(result.task.number)
            yield result

    with pytest.raises(KeyboardInterrupt):
        run(path, lines(*"abcdef"), three)
    progress = run(path, lines(*"abcdef"))
    assert asked == [1, 2, 3] and (progress.num_earlier, progress.num_answers) == (3, 3)
    assert [(a["line"], a["completions"][0]["text"]) for a in answers(path)] == list(enumerate("abcdef", 1))


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_last_line_that_a_kill_cut_off_is_answered_again(tmp_path, name, cut):
    path = tmp_path / name
    run(path, lines(*"abc"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert run(path, lines(*"abc")).num_answers == 1
    assert path.read_bytes() == whole


def test_a_file_broken_before_its_end_is_named(tmp_path):
    path = tmp_path / "out.jsonl.gz"
    run(path, lines(*"abc"))
    data = bytearray(path.read_bytes())
    data[3:9] = b"\xff" * 6
    data[14] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises((Failure, UsageError), match="broken|no answer"):
        run(path, lines(*"abc"))
    plain = tmp_path / "plain.jsonl"
    run(plain, lines(*"abc"))
    plain.write_bytes(b"{}\n" + plain.read_bytes())
    with pytest.raises(UsageError, match="no answer of this job"):
        run(plain, lines(*"abc"))


def test_errors_are_lines_and_are_run_again_when_asked(tmp_path):
    path = tmp_path / "out.jsonl"
    source = [*lines("a", "fail"), b"{broken\n", b"\n", *lines("b")]
    progress = run(path, source)
    assert (progress.num_answers, progress.num_errors) == (2, 2)
    wrong = {a["line"]: a["error"] for a in answers(path) if "error" in a}
    assert wrong[2] == {"code": "failed", "message": "ValueError: no", "param": None}
    assert wrong[3]["code"] == "invalid_request" and "not valid JSON" in wrong[3]["message"]
    assert run(path, source).num_earlier == 4

    def mended(tasks):
        return (Result(task, answer=[{"text": "mended"}]) for task in tasks)

    again = run(path, source, mended, retry_errors=True)
    assert (again.num_earlier, again.num_answers, again.num_errors) == (2, 1, 1)
    assert sorted(a["line"] for a in answers(path)) == [1, 2, 3, 5]
    assert not list(tmp_path.glob("*.part*"))


def test_another_job_is_not_mixed_in(tmp_path):
    path = tmp_path / "out.jsonl"
    run(path, lines("a"))
    with pytest.raises(UsageError, match="model was 'm' and is 'other'"):
        run(path, lines("a"), identity={"model": "other"})
    begun = {"options": {"scale": None, "temperature": 1.0}}
    run(tmp_path / "own.jsonl", lines("a"), identity=begun)
    with pytest.raises(UsageError, match="of another job: scale was None and is 3.0; give another output file"):
        run(tmp_path / "own.jsonl", lines("a"), identity={"options": {"scale": 3.0, "temperature": 1.0}})
    with pytest.raises(UsageError, match="line 1 of the input is not the one"):
        run(path, lines("b", "a"))
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("{}\n")
    with pytest.raises(UsageError, match="no output of a job"):
        run(foreign, lines("a"))
    (tmp_path / "out.jsonl.manifest.json").write_text("{")
    with pytest.raises(UsageError, match="manifest"):
        run(path, lines("a"))


def test_shards_share_the_lines():
    shards = [Shard(k, 3) for k in (1, 2, 3)]
    assert all(sum(shard.has(number) for shard in shards) == 1 for number in range(1, 20))
    assert Shard.parse("3/8").has(3) and not Shard.parse("3/8").has(8) and Shard.parse("8/8").has(8)
    for text in ("0/3", "4/3", "x", "1/", "1"):
        with pytest.raises(UsageError):
            Shard.parse(text)


def test_keys_are_of_content():
    assert key_of_line(b'{"a": 1, "b": 2}') == key_of_line(b'{"b":2,"a":1}\n') != key_of_line(b'{"a": 1, "b": 3}')
    assert len(key_of_line(b"not json")) == 16


OPENAI = {"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": {"prompt": "p"}}


def test_openai_lines_have_openais_shape(tmp_path):
    form, path = OpenAI(), tmp_path / "out.jsonl"
    source = [
        json.dumps(OPENAI | change).encode() for change in ({}, {"custom_id": "y"}, {}, {"url": "/v1/embeddings"})
    ]

    def served(tasks):
        for task in tasks:
            status = 200 if task.asked["custom_id"] == "x" else 400
            error = None if status == 200 else UsageError("too warm", param="temperature")
            yield Result(task, answer=(status, "r1", {"said": status}), error=error)

    kept = journal(path, form)
    run_job(source, form, served, kept)
    kept.close()
    got = {(a["custom_id"], a["id"].split("_")[2]): a for a in answers(path)}
    assert got["x", "1"]["response"] == {"status_code": 200, "request_id": "r1", "body": {"said": 200}}
    assert got["x", "1"]["error"] is None and got["y", "2"]["response"]["status_code"] == 400
    assert got["y", "2"]["error"]["param"] == "temperature"
    assert got["x", "3"]["response"] is None and "earlier line" in got["x", "3"]["error"]["message"]
    assert got["x", "4"]["error"]["param"] == "url"
    # What an earlier run answered counts as an earlier line too.
    form = OpenAI()
    kept = journal(path, form)
    run_job([*source, json.dumps(OPENAI | {"custom_id": "y", "body": {"prompt": "q"}}).encode()], form, served, kept)
    kept.close()
    assert "earlier line" in answers(path)[-1]["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"custom_id": 3}, {"custom_id": ""}, {"method": "GET"}, {"url": None}, {"body": "x"}, {"more": 1},
        {"body": {"prompt": "p", "stream": True}},
    ],
)  # fmt: skip
def test_openai_lines_that_cannot_be_sent_are_named(change):
    with pytest.raises(UsageError):
        OpenAI().read(json.dumps(OPENAI | change).encode(), 1)


def test_a_custom_id_is_new_once_however_many_there_are():
    form = OpenAI()
    for number in range(5000):
        form.read(json.dumps(OPENAI | {"custom_id": f"n{number}"}).encode(), number)
    for number in (0, 1234, 4999):
        with pytest.raises(UsageError, match="earlier line"):
            form.read(json.dumps(OPENAI | {"custom_id": f"n{number}"}).encode(), 9999)


def test_the_form_is_told_by_the_first_line():
    assert isinstance(form_of(json.dumps(OPENAI).encode()), OpenAI)
    assert isinstance(form_of(b'{"prompt": "p"}'), Lines) and isinstance(form_of(b"?"), Lines)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    file = LineFile(tmp_path / "out.jsonl")
    file.append(b"first")

    class Full:
        def __init__(self, inner):
            self.inner, self.room = inner, 4

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            taken, self.room = self.inner.write(data[: self.room]), 0
            return taken

        def __getattr__(self, name):
            return getattr(self.inner, name)

    inner, file._file = file._file, Full(file._file)
    with pytest.raises(Failure, match="No space left on device; make room"):
        file.append(b"second")
    assert (tmp_path / "out.jsonl").read_bytes() == b"first\n"
    file._file = inner
    file.append(b"second")
    file.close()
    assert (tmp_path / "out.jsonl").read_bytes() == b"first\nsecond\n"


def test_progress_tells_rate_and_what_is_left(monkeypatch):
    monkeypatch.setattr(job_room, "time", SimpleNamespace(monotonic=lambda: 102.0))
    progress = Progress(total=10, num_earlier=2, num_answers=3, num_errors=1, began=100.0)
    assert (progress.rate, progress.left_s) == (2.0, 2.0)
    assert Progress(total=None).left_s is None and Progress(total=3).left_s is None


def test_a_killed_command_goes_on_and_loses_nothing(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(
        "".join(
            json.dumps({"prompt": f"Chapter {number}.", "negative": "A list", "scale": 2, "max_tokens": 12}) + "\n"
            for number in range(60)
        )
    )
    asked = ["batch", str(source), "--quiet", "--window", "4"]
    command = [sys.executable, "-m", "counterpoint", *asked]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    subprocess.run([*command, str(whole)], check=True)
    slowly = [sys.executable, str(Path(__file__).parents[1] / "slowly.py"), "60", *asked]
    chance = random.Random(0)

    def num_lines():
        return killed.read_bytes().count(b"\n") if killed.exists() else 0

    for _ in range(2):
        most = num_lines() + chance.randrange(1, 15)
        process = subprocess.Popen([*slowly, str(killed)])
        wait_for(lambda: num_lines() > most or process.poll() is not None)  # noqa: B023, it is called here
        process.kill()
        assert process.wait() == -signal.SIGKILL and num_lines() < 60  # killed while it writes
    subprocess.run([*command, str(killed)], check=True)
    by_line = {a["line"]: a for a in answers(killed)}
    assert len(answers(killed)) == 60 and by_line == {a["line"]: a for a in answers(whole)}


def test_two_commands_do_not_write_one_output(tmp_path):
    path = tmp_path / "out.jsonl"
    first = journal(path)
    with pytest.raises(UsageError, match="written by another process"):
        journal(path)
    first.close()
    journal(path).close()


def test_half_a_surrogate_is_no_end_of_a_job(tmp_path):
    form, path = OpenAI(), tmp_path / "out.jsonl"
    source = [json.dumps(OPENAI | {"custom_id": "\ud800"}).encode(), json.dumps(OPENAI).encode()]
    kept = journal(path, form)
    run_job(source, form, lambda tasks: (Result(t, answer=(200, "r", {"text": "\udfff"})) for t in tasks), kept)
    kept.close()
    assert [a["custom_id"] for a in answers(path)] == ["\ud800", "x"]
    assert run(tmp_path / "ours.jsonl", [b'{"prompt": "\\ud800"}']).num_now == 1
