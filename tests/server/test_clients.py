"""The programs of docs/clients.md, run as they stand there against a live server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import PATIENCE_S
from server.conftest import make_model, serving
from server.test_forms import TOOLS_TEMPLATE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()
PROGRAMS = dict(re.findall(r"^## ([\w-]+)\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S))
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
WORDS = {"plain": "plain", "streamed": "plain", "third turn": "third", "guided": "guided", "guided response": "guided"}
CHATTING = [name for name in PROGRAMS if name != "lm-eval"]


def readable(model):
    """The model with a head that prefers small letters, so that what clients print can be compared."""
    letters = torch.tensor(
        [
            t.isascii() and len(t) == 1 and t.islower()
            for t in model.tokenizer.convert_ids_to_tokens(range(model.vocab_size))
        ]
    )
    with torch.inference_mode():
        model.hf.lm_head.weight[~letters] = 0
    return model


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with serving(readable(make_model(context_len=2048))) as one:
        one.service.model.tokenizer.save_pretrained(tmp_path_factory.getbasetemp() / "tokenizer")
        yield one


@pytest.fixture(scope="module")
def expected(running):
    """The texts that a plain HTTP request gets."""

    def chat(messages, **fields):
        body = {"messages": messages, "temperature": 0, "max_tokens": 12, **fields}
        return running.post("/v1/chat/completions", **body).json()["choices"][0]["message"]["content"]

    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}]
    made = {"plain": chat(messages), "guided": chat(messages, negative_prompt="Be rude.", guidance_scale=3)}
    text = made["plain"]
    for turn in ("And where?", "Since when?"):
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": turn}]
        text = chat(messages)
    assert text.isalpha() and text != made["plain"] != made["guided"]
    return made | {"third": text}


def run(program, running, tmp_path, python):
    program = program.replace("http://127.0.0.1:8000", running.base)
    program = program.replace("FOLDER", str(tmp_path.parent / "tokenizer"))
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    env = (
        {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        | quiet
        | {"HOME": str(tmp_path), "OPENAI_API_KEY": "none"}
    )
    done = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, env=env, timeout=PATIENCE_S, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)


@pytest.mark.skipif(not PYTHON.exists(), reason="no clients; run scripts/clients")
@pytest.mark.parametrize("name", CHATTING)
def test_a_client_gets_what_plain_requests_get(running, expected, tmp_path, name):
    said = run(PROGRAMS[name], running, tmp_path, PYTHON)
    assert {"plain", "streamed", "third turn", "guided"} <= said.keys()
    for line, text in said.items():
        assert text == expected[WORDS[line]], (line, said)


@pytest.mark.skipif(not PYTHON.exists(), reason="no clients; run scripts/clients")
def test_structured_answers(tmp_path):
    (program,) = re.findall(r"^## Structured answers\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S)
    undecided = make_model(template=TOOLS_TEMPLATE, context_len=4096)
    with torch.inference_mode():  # so that no white space goes on for ever
        undecided.hf.lm_head.weight.mul_(0.05)
    with serving(undecided) as running:
        said = run(program, running, tmp_path, PYTHON)
    assert len(said) == 10
    for text in said.values():
        made = json.loads(text)
        assert made["room"] in ("kitchen", "hall") and isinstance(made["sure"], bool), said


def test_the_harness_scores_through_the_server(running, tmp_path):
    pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity")
    said = run(PROGRAMS["lm-eval"], running, tmp_path, sys.executable)
    for name, fields in (("plain", {}), ("guided", {"negative_prompt": "Nothing is", "guidance_scale": 1.5})):
        want = []
        for context, continuation in (("The sky is", " blue"), ("Grass is", " green")):
            body = {"prompt": context + continuation, "echo": True, "logprobs": 1, "max_tokens": 1, **fields}
            logprobs = running.post(**body).json()["choices"][0]["logprobs"]["token_logprobs"]
            want.append(round(sum(logprobs[len(context) : -1]), 3))
        assert json.loads(said[name]) == pytest.approx(want, abs=2e-3)
    assert said["plain"] != said["guided"]


def test_the_page_names_every_client_of_the_extra():
    import tomllib

    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["clients"]
    names = {re.split(r"[\[>=]", one)[0] for one in extra}
    pinned = {
        re.split(r"[\[=]", one)[0]
        for one in (ROOT / "requirements" / "clients.txt").read_text().split("\n")
        if "==" in one
    }
    assert names == pinned
    told = {"llama-index-llms-openai-like": "llama-index", "pydantic-ai-slim": "pydantic-ai"}
    assert {told.get(name, name) for name in names} == set(CHATTING)
