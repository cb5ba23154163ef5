import pytest
from click.testing import CliRunner

from counterpoint.cli import serve
from counterpoint.errors import UsageError


@pytest.mark.parametrize(
    "arguments, passed",
    [
        (["--engine", "vllm", "some/model", "--port", "8001", "--host", "x"], ["some/model", "--port", "8001", "--host", "x"]),
        (["--model", "some/model", "--engine=vllm", "--dtype", "float32"], ["some/model", "--dtype", "float32"]),
        (["--dtype", "float32", "--model=some/model", "--engine", "vllm"], ["some/model", "--dtype", "float32"]),
    ],
)  # fmt: skip
def test_with_vllm_everything_else_is_passed_on(monkeypatch, arguments, passed):
    from counterpoint.vllm import launcher

    seen = []
    monkeypatch.setattr(launcher, "main", lambda given: seen.append(given) or 3)
    assert CliRunner().invoke(serve.command, arguments).exit_code == 3
    assert seen == [passed]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--memory-gb", "1", "--max-rows", "2"], "both given"),
        (["--max-rows", "0"], "--max-rows is 0"),
        (["--deadline", "nan"], "--deadline is nan"),
        (["--model", "/nowhere"], "no model folder"),
        (["--memory-gb", "0.00001"], "one row of 1024 tokens"),
    ],
)
def test_mistakes(arguments, words):
    result = CliRunner().invoke(serve.command, arguments)
    assert isinstance(result.exception, UsageError) and words in str(result.exception)
