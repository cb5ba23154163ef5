"""The evidence on a real model, from made-up answers: what is asked, how it is summed up, and that the page is made."""

import json
import random
import re
import sys
import types
from pathlib import Path

import pytest

from counterpoint.models.loading import BUNDLED

SCRIPTS = Path(__file__).parents[2] / "scripts"
pytest.importorskip("matplotlib")
pytest.importorskip("presidio_analyzer")
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<system>Help.<end>{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import evidence_parts
    import evidence_smollm2_page
    import evidence_summary

    yield evidence_parts, evidence_summary, evidence_smollm2_page
    for name in [name for name in sys.modules if name.startswith("evidence_")]:
        del sys.modules[name]


@pytest.fixture
def record(scripts):
    import transformers as hf

    from counterpoint.evaluate.answering import Answer

    parts, summary, _ = scripts
    tokenizer = hf.AutoTokenizer.from_pretrained(BUNDLED)
    tokenizer.chat_template = TEMPLATE
    rng, summed = random.Random(0), {}
    for part in parts.all_parts(types.SimpleNamespace(tokenizer=tokenizer), num_questions=2):
        answers = {}
        for document, arm, sample, task in part.tasks(lambda text: tuple(text.encode()), seed=0):
            # A guide's scale makes its answers better, and over 3 worse: capitals, the right word, no address.
            scale = task.guide.scale
            good = rng.random() < (0.2 + 0.2 * scale if scale <= 3 else 0.1)
            asked = part.documents[document].asked
            right = f"It is {asked[0]}." if isinstance(asked, tuple) else "AHOY!"
            text = right if good else "smile, smile, smile, smile, smile, write to a@example.com"
            answers[document, arm, sample] = Answer(text, True, 10, 0 if good else 2)
        summed[part.name] = summary.summarise_part(part, answers, seed=0)
    rows = []
    for metric, values in (("acc", (0.3, 0.35, 0.4)), ("perplexity", (50.0, 30.0, 25.0))):
        for scale, value in zip(("1.0", "1.25", "1.5"), values):
            gain = {"value": value - values[0], "low": 0.01, "high": 0.2, "p": 1e-9, "test": "McNemar, exact"}
            rows.append(
                {"metric": metric, "guide": f"scale={scale}", "value": value, "low": value - 0.01, "high": value + 0.01,
                 "num_docs": 5153, "num_ruled_out": 0, "gain": gain if scale != "1.0" else None,
                 "standing": {"prob_best": value, "expected_loss": 0.01}}
            )  # fmt: skip
    made = {"made by": "python scripts/evidence_smollm2.py --lambada FILE --questions 2", "machine": "m", "seed": 0,
            "versions": {"python": "3"}, "parameters": 1, "parts": summed, "questions": 2,
            "lambada_sample": None, "left out": [], "lambada": {"rows": rows}}  # fmt: skip
    return json.loads(json.dumps(made))


def test_what_is_asked(scripts, record):
    parts, _, _ = scripts
    adherence = record["parts"]["adherence"]
    assert len(adherence["groups"]) >= 12 and adherence["documents"] == 2 * len(adherence["groups"])
    assert record["parts"]["hold over turns"]["groups"] == ["1", "2", "3", "5", "7", "10"]
    assert record["parts"]["answers from passages"]["documents"] == 2 * len({fact.question for fact in parts.FACTS})
    for part in record["parts"].values():
        names = [row["arm"] for row in part["arms"]]
        assert len(set(names)) == len(names)
        # Every arm with a branch is compared with its own kind of unguided text, and with the best without a branch.
        assert all(row["gain"] and row["over_plain"] for row in part["arms"] if row["negative"] is not None)


def test_the_page_is_made_and_is_the_same_twice(scripts, record, tmp_path):
    _, summary, page = scripts
    text = page.write_page(record)
    assert text == page.write_page(json.loads(json.dumps(record)))
    for heading in ("LAMBADA", "Instructions that a program checks", "The same instructions, sampled", "Hold over turns", "Answers from passages",
                    "Personal data", "Artefacts by scale and space", "Which guide", "What did not work"):  # fmt: skip
        assert f"## {heading}\n" in text
    assert "the first 2 of the 20 questions" in text and "30.0 to 40.0 percent" in text
    assert not re.search(r"\bnan\b|None|\{|\}", text)
    del record["parts"]["hold over turns"]
    record["left out"] = ["hold over turns"]
    assert "without hold over turns" in page.write_page(record) and "## Hold" not in page.write_page(record)
    page.draw(record, tmp_path / "a.svg")
    page.draw(record, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert summary.choose_guide(record["parts"]["adherence"])["within"] is not None


def test_a_guide_that_garbles_is_never_chosen(scripts, record):
    _, summary, _ = scripts
    part = record["parts"]["adherence"]
    part["arms"] = [row for row in part["arms"] if not row["temperature"]]
    for row in part["arms"]:
        row["artefacts"]["value"] = 0.0
        for mark in summary.MARKS:
            row[mark] = {"value": 0.1, "low": 0.0, "high": 0.2}
    clean = summary.choose_guide(part)
    assert clean["chosen"] in clean["alike"] and set(clean["alike"]) <= set(clean["within"])
    (chosen,) = [row for row in part["arms"] if row["arm"] == clean["chosen"]]
    chosen["symbols"]["value"] = 0.5
    assert clean["chosen"] not in summary.choose_guide(part)["within"]
