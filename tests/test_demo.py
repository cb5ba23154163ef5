"""The demo's rules, by hand, and the demo itself on SmolLM2."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from counterpoint.models.gguf import find

DEMO = Path(__file__).parent.parent / "scripts" / "demo.py"
spec = importlib.util.spec_from_file_location("demo", DEMO)
demo = importlib.util.module_from_spec(spec)
sys.modules["demo"] = demo  # its dataclass looks its module up
spec.loader.exec_module(demo)


@pytest.mark.parametrize(
    "rule, text, holds",
    [
        (demo.is_one_sentence, "It scatters.", True),
        (demo.is_one_sentence, 'The answer is: "It scatters."', True),
        (demo.is_one_sentence, "It scatters. It does.", False),
        (demo.is_one_sentence, "Because:\n- it scatters.", False),
        (demo.is_one_sentence, "Because it", False),
        (demo.is_piratical, "Arrr, matey!", True),
        (demo.is_piratical, "Eat oats, a year-old ship's favourite.", False),
        (demo.is_shakespearean, "Thou art fair.", True),
        (demo.is_shakespearean, "The moon is fair.", False),
        (demo.is_english, "I'm happy to be of help to you.", True),
        (demo.is_english, "Mes merde aucun des éléments du cours", False),
        (demo.is_english, "🍡🍡🍡", False),
    ],
)
def test_rules(rule, text, holds):
    assert rule(SimpleNamespace(text=text, finish_reason="stop")) is holds
    if rule is demo.is_one_sentence:
        assert not rule(SimpleNamespace(text=text, finish_reason="length"))


@pytest.mark.skipif(importlib.util.find_spec(find.PACKAGE) is None, reason="SmolLM2 is not installed")
def test_it_shows_each_case_and_counts_it():
    done = subprocess.run(
        [sys.executable, DEMO, "--seeds", "2", "--shown", "1", "--max-tokens", "6"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of 2: ") == 8 and all(case.question in done.stdout for case in demo.CASES)
