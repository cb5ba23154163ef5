"""The marks of too strong guidance, on the article's own examples."""

import pytest

from counterpoint.evaluate.artefacts import find_artefacts


def test_the_articles_example_has_its_two_marks():
    found = find_artefacts("Hello! you don’t have personal name. you’re an interface to provide language understanding")
    assert found.lower_case == pytest.approx(2 / 3) and found.confuses_roles and found.repetition == 0


def test_a_plain_answer_has_none():
    found = find_artefacts("I'm doing great, thank you! How are you? It costs $3 (about 20% less).\n\n1. One\n2. Two")
    assert (found.lower_case, found.confuses_roles, found.repetition, found.symbols) == (0, False, 0, 0)


def test_one_thing_over_and_over():
    assert find_artefacts("smile, smile, smile, smile, smile, smile,").repetition > 0.5
    assert find_artefacts("🙂🙂🙂🙂").symbols == 1
    assert find_artefacts("") == find_artefacts("")
