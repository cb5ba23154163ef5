"""Guided log-likelihoods against a stateless computation that shares no code with the package."""

import math
import random

import pytest
import torch

from counterpoint.errors import PromptError
from counterpoint.evaluate.loglikelihood import Item, score
from counterpoint.guide import Guide
from tests.evaluate.tiny import ARCHITECTURES, VOCAB, guided_probs, next_probs, tiny

GUIDES = [
    Guide(scale=1.0),
    Guide(scale=1.5),
    Guide(scale=3.0, space="prob"),
    Guide(scale=2.0, plausibility=0.1),
    Guide(scale=3.0, gate=2.0),
    Guide(scale=4.0, adaptive="jsd"),
    Guide(scale=0.0, start=1, stop=3),
]


def some_items(count: int, seed: int) -> list[Item]:
    rng = random.Random(seed)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(2, VOCAB) for _ in range(rng.randint(least, most)))

    items = []
    for number in range(count):
        context = ids(1, 14)
        negative = (context[-1:], ids(1, 9), (1,), None)[number % 4]
        items.append(Item(context, ids(1, 4), negative))
    return items


def oracle(model, item: Item, guide: Guide) -> tuple[float, bool]:
    cond = next_probs(model, item.context, item.continuation)
    other = None if item.negative is None else next_probs(model, item.negative, item.continuation)
    total, is_greedy = 0.0, True
    for step, token_id in enumerate(item.continuation):
        probs = guided_probs(cond[step], None if other is None else other[step], guide, step)
        total += math.log(probs[token_id]) if probs[token_id] > 0 else -math.inf
        is_greedy &= int(probs.argmax()) == token_id
    return total, is_greedy


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_200_random_requests_equal_a_stateless_computation(name):
    model, items = tiny(name), some_items(200, seed=3)
    scores = score(model, items, GUIDES, batch_size=7)
    for number, item in enumerate(items):
        at = number % len(GUIDES)
        want, is_greedy = oracle(model, item, GUIDES[at])
        assert scores[number][at].logprob == pytest.approx(
            want, abs=2e-4, rel=1e-4 if GUIDES[at].space == "prob" else 1e-5
        )
        assert scores[number][at].is_greedy == is_greedy


def test_greedy_choice_is_recognised():
    model, guide = tiny("llama"), Guide(scale=2.5)
    context, negative, written = [5, 6, 7], [9, 10], []
    for step in range(4):
        cond, other = next_probs(model, context, written), next_probs(model, negative, written)
        written.append(int(guided_probs(cond[-1], other[-1], guide, step).argmax()))
    wrong = [*written[:-1], (written[-1] + 1) % VOCAB]
    items = [Item(tuple(context), tuple(ids), tuple(negative)) for ids in (written, wrong)]
    assert [scores[0].is_greedy for scores in score(model, items, [guide])] == [True, False]


def test_a_score_does_not_depend_on_its_batch():
    model, items = tiny("gpt2"), some_items(12, seed=4)
    alone = [score(model, [item], GUIDES)[0] for item in items]
    for batch_size in (2, 12):
        for one, other in zip(alone, score(model, items, GUIDES, batch_size=batch_size)):
            for a, b in zip(one, other):
                assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_a_negative_equal_to_the_context_is_unguided():
    model = tiny("llama")
    item = Item((4, 5, 6), (7, 8), (4, 5, 6))
    results = score(model, [item], [Guide(scale=1.0), Guide(scale=5.0), Guide(scale=5.0, space="prob")])[0]
    assert results[0] == results[1] == results[2]


def test_what_guidance_rules_out_is_minus_infinity_and_never_nan():
    model = tiny("llama")
    items = [Item((4, 5), (token_id,), (9,)) for token_id in range(VOCAB)]
    values = [scores[0].logprob for scores in score(model, items, [Guide(scale=6.0, space="prob")])]
    assert -math.inf in values
    assert sum(math.exp(value) for value in values) == pytest.approx(1, abs=1e-4)


def test_batches_are_reported_as_they_are_done():
    model, items, seen = tiny("llama"), some_items(5, seed=5), {}
    scores = score(model, items, [Guide(scale=2.0)], batch_size=2, on_batch=lambda n, s: seen.update(zip(n, s)))
    assert [seen[number] for number in range(5)] == scores


def test_what_does_not_fit_is_an_error():
    with pytest.raises(PromptError, match="reads 64; shorten"):
        score(tiny("llama"), [Item(tuple(range(2, 62)), (5,) * 6)], [Guide(scale=1.0)])
    with pytest.raises(PromptError, match="without tokens"):
        Item((), (5,))
    assert torch.is_inference_mode_enabled() is False
