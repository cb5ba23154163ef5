"""Plans and assignments on the command line."""

import json
import re

import pytest

pytest.importorskip("ortools")

PLAN = """
from counterpoint.constraints import Plan

plan = Plan("{a} and {b}", {"a": ["tea", "milk"], "b": ["tea", "milk"]})
for drink in ("tea", "milk"):
    plan.model.add_at_most_one(plan["a"][drink], plan["b"][drink]).with_name(f"{drink} once")
never = Plan("{a}", {"a": [1, 2]})
never.model.add(never.value("a") > 2).with_name("above two")
"""
LINES = b"".join(
    json.dumps({"prompt": text, "id": i}).encode() + b"\n"
    for i, text in enumerate(["A good day was", "A bad day was", "It was"])
)


def test_a_plan_of_a_file_is_kept(run, tmp_path):
    (tmp_path / "drinks.py").write_text(PLAN)
    given = ["generate", "They drank", "--max-tokens", "20", "--seed", "1", "--plan"]
    status, out, err = run(*given, tmp_path / "drinks.py")
    assert (status, err) == (0, "") and re.fullmatch("tea and milk\n|milk and tea\n", out)
    for value, message in (
        (f"{tmp_path}/drinks.py:never", "this rule can't be kept: above two"),
        (f"{tmp_path}/drinks.py:other", "has no counterpoint.constraints.Plan called 'other'"),
        (f"{tmp_path}/none.py", "can't be read: No such file"),
    ):
        status, out, err = run(*given, value)
        assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    (tmp_path / "wrong.py").write_text("1 / 0")
    status, _, err = run(*given, tmp_path / "wrong.py")
    assert status == 2 and "ends in an error: ZeroDivisionError" in err
    status, _, err = run(*given, tmp_path / "drinks.py", "--form-after", "so")
    assert status == 2 and "a plan says it itself" in err


def test_prompts_get_options_within_capacities(run, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(LINES)
    given = ["assign", tmp_path / "in.jsonl", "--options", "good,bad,other", "--text", "other= so so"]
    given += ["--negative", "It rained.", "--scale", "1.5", "--store", tmp_path / "scores"]
    status, out, err = run(*given, "--capacity", "good=1", "--capacity", "bad=1..1", "--capacity", "other=1")
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [answer["id"] for answer in answers] == [0, 1, 2]
    assert sorted(answer["option"] for answer in answers) == ["bad", "good", "other"]
    assert set(answers[0]["logprobs"]) == {"good", "bad", "other"} and "9 of 9 scored" in err and "nats" in err
    status, out, err = run(*given, "-o", tmp_path / "out.jsonl", "--quiet")
    assert (status, out, err) == (0, "", "")
    alone = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(answer["option"] == answer["alone"] and answer["loss"] == 0 for answer in alone)
    assert [a["logprobs"] for a in alone] == [a["logprobs"] for a in answers]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--options", ""], "--options names none"),
        (["--options", "a,a"], "'a' twice"),
        (["--options", "a", "--capacity", "b=1"], "--capacity is for 'b'"),
        (["--options", "a", "--capacity", "a=x"], "write NAME=COUNT"),
        (["--options", "a", "--capacity", "a=1", "--capacity", "a=2"], "given twice"),
        (["--options", "a", "--text", "b= x"], "--text is for 'b'"),
        (["--options", "a,b", "--capacity", "a=1", "--capacity", "b=1"], "there are 3 prompts and room for 2"),
    ],
)
def test_mistakes(run, tmp_path, arguments, message):
    (tmp_path / "in.jsonl").write_bytes(LINES)
    status, out, err = run("assign", tmp_path / "in.jsonl", *arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "x", "temperature": 1}\n')
    status, out, err = run("assign", tmp_path / "in.jsonl", "--options", "a")
    assert status == 2 and "line 1 has 'temperature'" in err
