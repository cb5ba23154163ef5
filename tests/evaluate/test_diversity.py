"""Measures of variety, worked by hand."""

import pytest

pytest.importorskip("sacrebleu")
from counterpoint.evaluate.diversity import distinct, repetition, self_bleu


def test_distinct():
    # a b, b a, a b | a b, b c: three different ones of five.
    assert distinct(["a b a b", "a b c"], 2) == pytest.approx(3 / 5)
    assert distinct(["a b a b"], 1) == 0.5
    assert distinct(["a", ""], 2) == 0.0


def test_repetition():
    # a b c, b c a, c a b, a b c: three different ones of four.
    assert repetition("a b c a b c") == pytest.approx(0.25)
    assert repetition("a b c d e") == 0.0
    assert repetition("a") == 0.0


def test_self_bleu():
    same, other = (
        ["the cat sat on the mat"] * 3,
        ["one two three four", "five six seven eight", "nine ten eleven twelve"],
    )
    assert self_bleu(same, seed=0) == pytest.approx(100)
    assert self_bleu(other, seed=0) == pytest.approx(0)
    mixed = [*same, *other]
    assert 0 < self_bleu(mixed, seed=0) < 100
    assert self_bleu(mixed, seed=1, most=3) == self_bleu(mixed, seed=1, most=3)
    assert self_bleu(["alone"], seed=0) == 0.0
