import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import wait_for
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterpoint.errors import Failure, UsageError
from counterpoint.train import checkpoint, run


@pytest.fixture
def train(config_path, data, tmp_path):
    lines: list[str] = []

    def go(out: str = "out", **kwargs):
        return run(config_path, out=tmp_path / out, data=data, compiled=False, threads=1, say=lines.append, **kwargs)

    go.lines = lines
    return go


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one, two) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_ends_in_a_folder_that_transformers_opens(train):
    done = train()
    assert done.finished and done.steps == 12 and done.tokens == 12 * 256
    model, tokenizer = AutoModelForCausalLM.from_pretrained(done.folder), AutoTokenizer.from_pretrained(done.folder)
    assert model.dtype == torch.bfloat16
    assert model.config.use_cache
    ids = tokenizer("The cat", return_tensors="pt").input_ids
    assert ids[0, 0] == tokenizer.bos_token_id
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] <= ids.shape[1] + 3
    card = json.loads((done.folder / "training.json").read_text())
    assert card["tokens"] == done.tokens and card["config"]["seed"] == 3
    rows = (done.folder.parent / "loss-curve.csv").read_text().splitlines()
    assert rows[0] == "step,tokens,seconds,train_nats,bits_per_byte_books"
    assert [r.split(",")[0] for r in rows[1:]] == ["4", "8", "12"]
    assert (done.folder.parent / "loss-curve.png").read_bytes().startswith(b"\x89PNG")


def test_training_learns(train):
    train()
    losses = [float(line.split(": ")[1].split()[0]) for line in train.lines if line.startswith("step ")]
    assert losses[-1] < losses[0] - 0.2


def test_a_resumed_run_equals_one_in_one_go(train):
    whole = train("whole")
    part = train("part", stop_after=5)
    assert not part.finished and part.steps == 5
    resumed = train("part")
    assert "resumed at step 5" in train.lines
    assert same(weights(whole.folder), weights(resumed.folder))
    assert resumed.validation == whole.validation


def test_another_seed_is_another_model(train, config_path):
    first = train("one")
    config_path.write_text(config_path.read_text().replace("seed = 3", "seed = 4"))
    assert not same(weights(first.folder), weights(train("two").folder))


def test_a_kill_loses_only_what_came_after_the_last_checkpoint(train, config_path, data, tmp_path):
    """SIGKILL as soon as a checkpoint is there; the rest of the run gives what an undisturbed one gives."""
    config_path.write_text(config_path.read_text().replace("steps = 12", "steps = 24"))
    code = (
        "from slowly import hold_at_checkpoint; hold_at_checkpoint(9); from counterpoint.train import run; "
        f"run({str(config_path)!r}, out={str(tmp_path / 'killed')!r}, data={str(data)!r}, compiled=False, threads=1)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment, quiet = {**os.environ, "PYTHONPATH": path}, subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, "-c", code], stdout=quiet, stderr=quiet, env=environment)
    wait_for(lambda: (tmp_path / "killed" / "checkpoint.pt").exists() or child.poll() is not None)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    resumed, whole = train("killed"), train("whole")
    assert any(line.startswith("resumed at step ") for line in train.lines)
    assert same(weights(whole.folder), weights(resumed.folder))


def test_resume_can_be_refused_and_another_model_is(train, config_path):
    train(stop_after=2)
    with pytest.raises(UsageError, match="exists; resume from it, or choose another --out"):
        train(resume=False)
    config_path.write_text(config_path.read_text().replace("inner = 48", "inner = 64"))
    with pytest.raises(UsageError, match="belongs to another model or corpus"):
        train()


def test_a_full_disk_is_survived_until_the_last_checkpoint(train, monkeypatch):
    """Every write fails from the second checkpoint on: told each time, the first one stays, the end is a failure."""
    kept, real = [], checkpoint.replace_file

    def full(path, content):
        if path.name == "checkpoint.pt" and kept:
            raise OSError(errno.ENOSPC, "No space left on device")
        kept.append(path)
        real(path, content)

    monkeypatch.setattr(checkpoint, "replace_file", full)
    with pytest.raises(Failure, match="No space left on device; free some space and run again"):
        train()
    assert sum("training goes on" in line for line in train.lines) == 10
    monkeypatch.undo()
    assert train().finished
    assert "resumed at step 1" in train.lines


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.replace_file(path, b"old")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_broken_records_are_told_and_training_goes_on(train, data):
    with open(data / "questions.jsonl", "a") as file:
        file.write("{broken\n")
    assert train(stop_after=1).steps == 1
    assert any("1 broken ones skipped (first: questions.jsonl:13: is not JSON)" in line for line in train.lines)


def test_cuda_that_is_not_there_is_a_usage_error(train):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(UsageError, match="torch sees none; use cpu"):
        train(device="cuda")
