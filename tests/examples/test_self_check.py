import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
from contexts.chat_templates import GEMMA, byte_tokenizer
from contexts.test_second_model import tiny

import counterpoint as cp
from counterpoint.contexts import documents

pytest.importorskip("bm25s")
PATH = Path(__file__).parents[2] / "examples" / "self_check.py"
STORY = "The king had golden hair.\n\nThe cat sat on a mat.\n\nA ship sailed to the cold sea."


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("self_check", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["self_check"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["self_check"]


def test_passages_are_whole_paragraphs_and_found_by_their_words(example):
    passages = example.split(STORY, most_chars=30)
    assert passages == STORY.split("\n\n")
    assert example.split(STORY) == [STORY]
    assert example.Passages(passages).best("Where did the ship sail?", 1) == [passages[2]]


@pytest.mark.parametrize("template", [None, GEMMA])
def test_answer_and_check(example, template):
    model = tiny(268, byte_tokenizer(template), name="tiny")
    model.hf.config.max_position_embeddings = 512
    known = example.Passages(example.split(STORY, most_chars=30))
    guide = cp.Guide(scale=2)
    checked = example.answer_and_check(model, "Whose hair was golden?", known, count=1, guide=guide)
    assert checked.passages == ["The king had golden hair."]
    wanted = verdict(model, example, f"Whose hair was golden?\nAnswer: {checked.answer}", checked.passages, 2)
    assert checked.correct == pytest.approx(wanted, rel=1e-4)


@torch.inference_mode()
def verdict(model, example, question, passages, scale):
    """The probability of the first verdict, by forwards of the whole texts of both branches."""
    is_chat = model.tokenizer.chat_template is not None
    built = documents(question, passages, template=example.JUDGE, model=model if is_chat else None)
    texts = [context.text if is_chat else context for context in (built.prompt, built.branches[0].context)]
    scores = []
    for word in example.VERDICTS:
        ids = model.encode(word.strip() if is_chat else word, special_tokens=False)
        cond, other = (
            model.hf(torch.tensor([model.encode(t, special_tokens=False) + ids]))
            .logits[0, -len(ids) - 1 : -1]
            .log_softmax(-1)
            for t in texts
        )
        guided = (scale * cond + (1 - scale) * other).log_softmax(-1)
        scores.append(float(guided.gather(1, torch.tensor(ids)[:, None]).sum()))
    return math.exp(scores[0]) / (math.exp(scores[0]) + math.exp(scores[1]))
