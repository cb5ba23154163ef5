"""The scripts that measure contexts, on a few texts."""

import json
import lzma
import sys
from pathlib import Path

import pytest
from contexts.chat_templates import byte_tokenizer
from contexts.test_second_model import tiny

import counterpoint as cp

pytest.importorskip("nltk")


@pytest.fixture(scope="module", autouse=True)
def scripts():
    folder = str(Path(__file__).parents[2] / "scripts")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def test_answers_are_scored_by_their_words():
    from contexts_qa import exact, f1

    assert exact(" The golden hair!", ("golden hair", "gold")) == 1
    assert exact("golden", ("golden hair",)) == 0
    assert f1("a golden crown", ("golden hair",)) == pytest.approx(0.5)
    assert f1("golden golden", ("golden hair",)) == pytest.approx(0.5)
    assert f1("", ("golden hair",)) == 0
    assert f1("gold", ("golden hair", "gold")) == 1


def test_questions_keep_both_answers_and_leave_other_splits(tmp_path):
    from contexts_qa import read_questions

    conditions = {"context": "A king.", "question": "Who?"}
    records = [("test", "a king"), ("test", "the king"), ("train", "a cat")]
    lines = [json.dumps({"split": s, "cond": conditions, "text": t, "source": "x"}) for s, t in records]
    (tmp_path / "qa.jsonl.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    (question,) = read_questions(tmp_path)
    assert question.answers == ("a king", "the king")


def test_every_arm_reads_what_it_says(tmp_path):
    from contexts_page import write_page
    from contexts_qa import MAX_TOKENS, Question, f1, measure_qa

    model = tiny(268, byte_tokenizer(), name="tiny")
    model.hf.config.max_position_embeddings = 256
    questions = [Question("It is red.", "What?", ("red",)), Question("x" * 300, "Long?", ("no",))]
    found = measure_qa(model, questions, seed=0, say=print)
    assert (found["questions"], found["too long"]) == (1, 1)
    options = {"max_tokens": MAX_TOKENS, "temperature": 0, "stop": "\n"}
    built = cp.contexts.documents("What?", ["It is red."])
    wanted = {
        "question alone": cp.generate(model, "Question: What? Answer:", **options).text,
        "unguided": cp.generate(model, built.prompt, **options).text,
        "context-aware, scale 3": cp.generate(model, built, guide=cp.Guide(scale=3), **options).text,
    }
    shown = found["examples"][0]
    assert {name: shown[name] for name in wanted} == wanted
    rows = {row["arm"]: row for row in found["rows"]}
    assert all(rows[name]["f1"].value == f1(text, ("red",)) for name, text in wanted.items())
    made = {"weights": "0" * 12, "machine": "m", "versions": {"torch": "2"}, "command": "python x"}
    as_json = json.loads(
        json.dumps(found | made, default=lambda value: {n: getattr(value, n) for n in value.__slots__})
    )
    write_page({"qa": as_json}, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "1 questions" in page and "| unguided | 0.000 (0.000 to 0.000)" in page and "`python x`" in page
