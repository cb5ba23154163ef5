"""The frontier on the bundled model with judges made for the test."""

import dataclasses
import math

import pytest

pytest.importorskip("nltk")
import counterpoint as cp
from counterpoint.errors import UsageError
from counterpoint.evaluate.frontier import (
    FORMULAS,
    Arm,
    Condition,
    Measured,
    all_arms,
    choose_default,
    run_frontier,
    same_fluency,
    write_samples,
)
from counterpoint.evaluate.judges import Labelled, NgramModel, train_judge
from counterpoint.guide import Guide
from counterpoint.store import Store
from counterpoint.trace.record import LIMITS

CONDITIONS = [
    Condition("kind", "The kind old king", "The cruel old king", "mood", "good"),
    Condition("story", "Genre: mystery.\n\n", None, "mood", "bad"),
]


@pytest.fixture(scope="module")
def model():
    return cp.load("bundled", dtype="float32")


@pytest.fixture(scope="module")
def judges():
    texts = [("good", "a lovely warm and kind day"), ("bad", "an awful cold and cruel night")] * 6
    return {"mood": train_judge("mood", [Labelled(t, label, str(i)) for i, (label, t) in enumerate(texts)], seed=0)}


@pytest.fixture(scope="module")
def fluency(model):
    return NgramModel(
        lambda text: model.encode(text, special_tokens=False), vocab_size=model.vocab_size, texts=["The king was old."]
    )


def run(model, judges, fluency, store, arms, **changes):
    options = {"samples": 3, "max_tokens": 6, "seed": 1, "weights": "w"} | changes
    return run_frontier(model, CONDITIONS, judges, fluency, arms=arms, store=store, **options)


def test_every_formula_and_the_two_rivals_are_in():
    arms = all_arms()
    assert arms[0] == Arm("unguided", Guide(scale=1.0)) and arms[0].temperature == 1
    families = {arm.family for arm in arms}
    assert families == {"unguided", "plausibility alone", *FORMULAS}
    assert len({arm.name for arm in arms}) == len(arms)
    assert {arm.guide.scale for arm in arms if arm.family == "prob"} == {1.5, 2.0, 3.0, 5.0, 8.0}


def test_samples_are_those_of_generate_and_artefacts_those_of_the_trace(model):
    arm = Arm("log", Guide(scale=3.0))
    options = {"samples": 3, "max_tokens": 8, "seed": 5, "store": Store(None), "weights": "w"}
    written = write_samples(model, arm, CONDITIONS, **options)
    for at, (condition, samples) in enumerate(zip(CONDITIONS, written)):
        negative = cp.contexts.Empty() if condition.negative is None else condition.negative
        plain = {"negative": negative, "guide": arm.guide, "max_tokens": 8, "seed": 5 + 1000 * at, "n": 3}
        done = cp.generate(model, condition.prompt, **plain)
        assert [one.text for one in done] == [one.text for one in samples]
        ids = model.encode(condition.prompt)
        for completion, sample in zip(done, samples):
            count = 0
            for i, token in enumerate(completion.token_ids):
                read = cp.generate(model, [*ids, *completion.token_ids[:i]], max_tokens=1, logprobs=model.vocab_size)
                ranked = [t for t, _ in read.logprobs[0].top]
                prob = math.exp(dict(read.logprobs[0].top)[token])
                count += prob < LIMITS.prob and ranked.index(token) + 1 > LIMITS.rank
            assert sample.num_artefacts == count and sample.num_tokens == len(completion.token_ids)


def test_the_same_numbers_twice_and_nothing_written_twice(model, judges, fluency, tmp_path):
    arms = [Arm("unguided", Guide(scale=1.0)), Arm("log", Guide(scale=2.0))]
    path = tmp_path / "samples.sqlite"
    first = run(model, judges, fluency, Store(path), arms[:1])
    store = Store(path)
    both = run(model, judges, fluency, store, arms)
    assert (store.num_computed, store.num_reused) == (1, 1) and both[0] == first[0]
    assert run(model, judges, fluency, Store(None), arms) == both
    assert run(model, judges, fluency, Store(None), arms, seed=2)[0].bits_per_byte != both[0].bits_per_byte


def test_bad_input(model, judges, fluency):
    with pytest.raises(UsageError, match="which is not there"):
        run(model, {}, fluency, Store(None), all_arms()[:1])
    with pytest.raises(UsageError, match="use 2 or more"):
        run(model, judges, fluency, Store(None), all_arms()[:1], samples=1)


def test_guidance_is_compared_with_what_is_as_fluent():
    arms = [
        measured("unguided", 1.0, 50, bits=2.0),
        measured("plausibility alone", 1.0, 60, bits=1.5, plausibility=0.1),
        measured("log", 2.0, 65, bits=1.9),
        measured("log", 5.0, 90, bits=1.6),
        measured("prob", 3.0, 55, bits=2.2),
    ]
    first, second = same_fluency(arms, seed=0)
    assert (first["arm"], first["rival"]) == (arms[3].arm.name, arms[1].arm.name)
    assert first["difference"]["value"] == pytest.approx(0.3) and first["difference"]["p"] < 0.001
    assert (second["arm"], second["rival"]) == (arms[4].arm.name, arms[0].arm.name)


def measured(name: str, scale: float, wins: int, *, bits: float = 2.0, distinct: float = 0.9, **fields) -> Measured:
    won = tuple(int(i < wins) for i in range(100))
    return Measured(
        arm=Arm(name, Guide(scale=scale, **fields)), adherence=(wins / 100, 0.0, 1.0), bits_per_byte=(bits, bits, bits),
        artefacts=(0.01, 0.0, 0.02), repetition=(0.0, 0.0, 0.1), distinct_2=distinct, self_bleu=1.0, won=won, by_condition={},
    )  # fmt: skip


def test_the_default_is_the_gentlest_of_the_best_that_cost_nothing():
    base = measured("unguided", 1.0, 50)
    arms = [
        base,
        measured("log", 2.0, 80),
        measured("log", 3.0, 82),  # no better than scale 2 by an exact test
        measured("log", 5.0, 99, bits=2.5),  # less fluent
        measured("prob", 8.0, 98, distinct=0.5),  # less varied
        measured("prob", 1.5, 60),  # worse
    ]
    choice = choose_default(arms, seed=0)
    assert choice.chosen is arms[1]
    assert choice.within == tuple(arms[i].arm.name for i in (2, 1, 5, 0))
    assert choice.against[base.arm.name]["p"] < 0.01
    assert choose_default([base, dataclasses.replace(arms[3])], seed=0).chosen is None
