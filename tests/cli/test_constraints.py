"""The form of the output on the command line."""

import json
import re

import pytest

SHORT = ["--max-tokens", "40", "--seed", "1"]


def test_each_form_is_kept(run, tmp_path):
    (tmp_path / "schema.json").write_text('{"enum": ["a", {"b": 1}]}')
    (tmp_path / "grammar.lark").write_text('start: "<" /[a-c]{2}/ ">"')
    for arguments, pattern in (
        (["--json-schema", tmp_path / "schema.json"], r'"a"|\{.*"b".*\}'),
        (["--regex", r"\d\d:\d\d"], r"\d\d:\d\d"),
        (["--choices", 'yes,"no, never"'], "yes|no, never"),
        (["--grammar", tmp_path / "grammar.lark"], "<[a-c]{2}>"),
        (["--regex", "[xy]", "--form-after", "the"], r"(.|\n)*the\s{0,8}[xy]"),
    ):
        extra = ["--max-tokens", "400"] if "--form-after" in arguments else []
        status, out, err = run("generate", "The old house", "--negative", "A day", *arguments, *SHORT, *extra)
        assert (status, err) == (0, "") and re.fullmatch(pattern, out.removesuffix("\n"), re.DOTALL), out


def test_an_answer_that_is_cut_says_so(run):
    status, out, err = run("generate", "One", "--regex", "[ab]{30}", "--max-tokens", "3", "--stream")
    assert status == 0 and "the form is not complete" in err
    status, out, err = run("generate", "One", "--regex", "[ab]{30}", "--max-tokens", "3", "--json")
    assert json.loads(out)["complete"] is False and err == ""


def test_many_lines_keep_the_form_and_loops_end(run):
    status, out, _ = run(
        "generate", "--jsonl", "-", "--choices", "a,b", *SHORT, stdin=b'{"prompt": "x"}\n{"prompt": "y"}\n'
    )
    assert status == 0 and all(json.loads(line)["text"] in "ab" for line in out.splitlines())
    status, out, _ = run("generate", "One", "--logit-bias", "300=1000", "--loop", "2,5", *SHORT, "--json")
    assert json.loads(out)["finish_reason"] == "loop"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--regex", "a", "--choices", "b"], "--regex and --choices are given, and"),
        (["--form-after", "x"], "--form-after is given without a form"),
        (["--regex", "["], "unclosed character class"),
        (["--json-schema", "missing.json"], "can't be read"),
        (["--loop", "3"], "write PERIOD,REPEATS"),
        (["--loop", "3,1"], "number of repeats"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    status, out, err = run("generate", "One", *arguments, *SHORT)
    assert status == 2 and out == "" and said in err and err.count("\n") == 1
