import os
import signal
from argparse import Namespace
from pathlib import Path

import pytest

from counterpoint.errors import UsageError
from counterpoint.vllm import versions
from counterpoint.vllm.launcher import METRICS_FOLDER, guided, main, metrics_folder
from counterpoint.vllm.params import CHECK, MIDDLEWARE, SCHEDULER, WORKER


def args(**given):
    plain = {"scheduler_cls": None, "worker_cls": "auto", "logits_processors": None, "middleware": []}
    return Namespace(**{**plain, "async_scheduling": None, "grpc": False, **given})


def test_our_classes_are_added_to_what_was_given():
    made = guided(args(logits_processors=["theirs"], middleware=["theirs"]))
    assert (made.scheduler_cls, made.worker_cls, made.async_scheduling) == (SCHEDULER, WORKER, False)
    assert (made.logits_processors, made.middleware) == (["theirs", CHECK], ["theirs", MIDDLEWARE])
    assert guided(made) == made


@pytest.mark.parametrize(
    "given",
    [{"scheduler_cls": "theirs"}, {"worker_cls": "theirs"}, {"async_scheduling": True}, {"grpc": True}],
    ids=str,
)
def test_a_place_that_is_taken_is_an_error(given):
    with pytest.raises(UsageError, match="leave the flag out"):
        guided(args(**given))


def test_another_vllm_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(versions, "installed", lambda: "0.9.9")
    assert main(["model"]) == 2
    assert capsys.readouterr().err.startswith("counterpoint: vLLM 0.9.9 is installed; counterpoint.vllm works with")


def test_the_metrics_folder_is_gone_after_sigterm(monkeypatch):
    monkeypatch.delenv(METRICS_FOLDER, raising=False)
    with pytest.raises(SystemExit) as ended, metrics_folder():
        folder = Path(os.environ[METRICS_FOLDER])
        assert folder.is_dir()
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not folder.exists()
    assert METRICS_FOLDER not in os.environ
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_metrics_folder_of_the_users_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path))
    with metrics_folder():
        assert os.environ[METRICS_FOLDER] == str(tmp_path)
    assert (tmp_path.is_dir(), capsys.readouterr().err) == (True, "")
    (tmp_path / "counter_1.db").touch()
    with metrics_folder():
        assert "another run's numbers" in capsys.readouterr().err
    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="which is no folder"), metrics_folder():
        pass
