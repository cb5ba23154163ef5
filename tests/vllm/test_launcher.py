from argparse import Namespace

import pytest

from counterpoint.errors import UsageError
from counterpoint.vllm import versions
from counterpoint.vllm.launcher import guided, main
from counterpoint.vllm.params import CHECK, MIDDLEWARE, SCHEDULER, WORKER


def args(**given):
    plain = {"scheduler_cls": None, "worker_cls": "auto", "logits_processors": None, "middleware": []}
    return Namespace(**{**plain, "async_scheduling": None, **given})


def test_our_classes_are_added_to_what_was_given():
    made = guided(args(logits_processors=["theirs"], middleware=["theirs"]))
    assert (made.scheduler_cls, made.worker_cls, made.async_scheduling) == (SCHEDULER, WORKER, False)
    assert (made.logits_processors, made.middleware) == (["theirs", CHECK], ["theirs", MIDDLEWARE])


@pytest.mark.parametrize(
    "given", [{"scheduler_cls": "theirs"}, {"worker_cls": "theirs"}, {"async_scheduling": True}], ids=str
)
def test_a_place_that_is_taken_is_an_error(given):
    with pytest.raises(UsageError, match="leave the flag out"):
        guided(args(**given))


def test_another_vllm_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(versions, "installed", lambda: "0.9.9")
    assert main(["model"]) == 2
    assert capsys.readouterr().err.startswith("counterpoint: vLLM 0.9.9 is installed; counterpoint.vllm works with")
