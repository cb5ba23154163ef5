"""Lines of a job that vLLM answers in this process."""

import json

import pytest
from engines import started
from tiny_models import save

import counterpoint as cp
from counterpoint.batch.job import Task
from counterpoint.batch.lines import read_line
from counterpoint.errors import UnsupportedError
from counterpoint.vllm import offline
from counterpoint.vllm.offline import Offline

LINES = [
    {"prompt": [5, 6, 7, 8], "negative": [9, 10, 11], "scale": 2.0, "max_tokens": 12},
    {"prompt": [12, 13, 14], "max_tokens": 9},
    {"prompt": [12, 13, 14], "temperature": -1},
    {"prompt": [3, 4], "negative": [20, 21], "guide": {"scale": 3, "space": "prob"}, "max_tokens": 12, "n": 1},
    {"prompt": None},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama"), "llama")


def test_answers_are_those_of_our_engine(folder):
    tasks = [Task(n, f"{n:016x}", read_line(json.dumps(line).encode(), n)) for n, line in enumerate(LINES, 1)]
    with started(folder, skip_tokenizer_init=True) as llm:
        runner = Offline(llm, {"temperature": 0.0, "ignore_eos": True})
        results = {result.task.number: result for result in runner(iter(tasks))}
    assert sorted(results) == [1, 2, 3, 4, 5]
    assert "temperature" in str(results[3].error) and "prompt is null" in str(results[5].error)
    model = cp.load(folder)
    for number in (1, 2, 4):
        line = tasks[number - 1].asked
        want = cp.generate(
            model, line.prompt, negative=line.negative, guide=line.guide, temperature=0, ignore_eos=True,
            max_tokens=line.options["max_tokens"],
        )  # fmt: skip
        assert results[number].answer[0]["token_ids"] == list(want.token_ids), number


def test_openais_form_is_refused():
    with pytest.raises(UnsupportedError, match="start vllm serve"):
        offline.started("m", "openai")
