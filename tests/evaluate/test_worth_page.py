"""The measured part of docs/distil.md: its figures are those of the record, and its verdicts follow them."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import worth_page

    yield worth_page
    sys.modules.pop("worth_page")


def share(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def record(own, ratio):
    def rows(*arms):
        return [
            {"arm": arm, "share": share(value), "over unguided": {"value": value - 0.4, "p": 0.01}, "repetition": share(0.0),
             "tokens": 30.0, "surprise": share(1.0), "example": f"{arm} | said", "way": way}
            for arm, value, way in arms
        ]  # fmt: skip

    arms = (("unguided", 0.4, None), ("guided", 0.8, share(1.0)), ("distilled", 0.4 + 0.4 * own, share(own)))
    hold = [
        {"arm": arm, "by turn": [value, value], "all": share(value), "first": value, "last": value}
        for arm, value, _ in arms
    ]
    card = {
        "answers": {"kept": 70, "rejected": 60, "written": 300}, "prompts": {"learnt": 81, "texts": 58}, "writing": {"candidates": 3},
        "steps": 30, "tokens": 9000, "seconds": 600, "gains": {"loss_before": 0.5, "loss_after": 0.2},
    }  # fmt: skip
    ordinary = [
        {"arm": arm, "perplexity": share(20), "ratio": share(r)} for arm, r in (("unguided", 1), ("distilled", ratio))
    ]
    return {
        "made by": "python scripts/worth.py", "machine": "m", "versions": {"torch": "2"}, "seed": 0, "system": "S",
        "opposite": "O", "card": card, "greedy": rows(*arms), "sampled": rows(*arms), "uninstructed": rows(arms[0], arms[2]),
        "ordinary": ordinary, "hold": hold, "cost": [{"arm": "guided", "rows": 2, "needs": ""}],
        "setting": {"questions": 20, "passages": 64, "conversations": 4, "guide": "scale=3", "talks": 10, "samples": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    "own, ratio, said",
    [(0.9, 1.01, ("90 percent (80 to 100) of the way", "at least 70 percent", "+1.0 percent", "within 3")),
     (0.5, 1.08, ("50 percent (40 to 60) of the way", "short of 70 percent", "+8.0 percent", "past 3"))],
)  # fmt: skip
def test_verdicts_follow_the_figures(page, own, ratio, said):
    made = page.write_page(record(own, ratio), f"Before\n{page.BEGIN}\nstale words\n{page.END}\nAfter")
    assert made.startswith("Before\n") and made.endswith("\nAfter") and "stale words" not in made
    for part in (*said, r"distilled \| said", "| guided | 2 | nothing |"):
        assert part in made
    assert page.write_page(record(own, ratio), made) == made


def test_the_docs_have_a_place_for_it(page):
    text = (SCRIPTS.parent / "docs" / "distil.md").read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1
