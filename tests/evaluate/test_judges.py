"""The judges on texts whose answers are known, and against nltk's own slow score."""

import math
import random

import pytest

pytest.importorskip("nltk")
from counterpoint.errors import UsageError
from counterpoint.evaluate.judges import Labelled, NgramModel, train_judge

GOOD, BAD = ["lovely", "bright", "warm", "kind"], ["awful", "dull", "cold", "cruel"]


def examples(count: int = 80) -> list[Labelled]:
    rng = random.Random(0)
    made = []
    for number in range(count):
        label, words = (("good", GOOD), ("bad", BAD))[number % 2]
        text = " ".join(rng.choice([*words, "the", "film", "was", "a"]) for _ in range(12))
        made.append(Labelled(text, label, str(number // 4)))
    return made


def encode(text: str) -> list[int]:
    return [ord(letter) - ord("a") for letter in text]


def test_a_judge_tells_apart_what_it_can_and_says_how_well():
    judge = train_judge("mood", examples(), seed=0)
    assert judge.accuracy > 0.95
    assert judge.agrees(["a lovely warm film", "the dull cold film"], "good") == [1, 0]
    shuffled = [
        Labelled(one.text, random.Random(i).choice(["good", "bad"]), one.work) for i, one in enumerate(examples())
    ]
    assert train_judge("noise", shuffled, seed=0).accuracy < 0.75


def test_a_judge_needs_works_to_be_tested_on():
    with pytest.raises(UsageError, match="1 works of 'bad' and needs 2"):
        train_judge("mood", [Labelled(one.text, one.label, "same") for one in examples()], seed=0)
    with pytest.raises(UsageError, match="knows no 'great'"):
        train_judge("mood", examples(), seed=0).agrees(["a"], "great")


def test_the_ngram_model_is_nltks_witten_bell():
    model = NgramModel(encode, vocab_size=5, texts=["abcabcabd", "aabb"])
    for token in range(5):
        for context in ((), (0,), (0, 1), (3, 4), (1, 2)):
            names = tuple(map(str, context))
            assert model._prob(str(token), names) == pytest.approx(model._model.score(str(token), names), abs=1e-12)


def test_its_probabilities_sum_to_1_and_no_text_is_impossible():
    model = NgramModel(encode, vocab_size=5, texts=["abcabcabd"])
    for context in ((), ("0",), ("0", "1"), ("4", "4")):
        assert sum(model._prob(str(token), context) for token in range(5)) == pytest.approx(1)
    assert math.isfinite(model.bits("eeee")) and model.bits("eeee") > model.bits("abca")
    # Four bytes, four tokens: bits per byte is their mean.
    assert model.bits_per_byte(["abca"]) == pytest.approx(model.bits("abca") / 4)
