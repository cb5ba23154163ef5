"""Loops are told exactly, at the first token that completes one."""

import random

import pytest
from conformance.architectures import ARCHITECTURES

import counterpoint as cp
from counterpoint.engine.loops import Loops
from counterpoint.errors import SamplingError


def by_definition(ids, longest, repeats):
    """The length at which the text first ends in `repeats` times the same passage."""
    for end in range(1, len(ids) + 1):
        for period in range(1, longest + 1):
            last = ids[max(0, end - period * repeats) : end]
            if len(last) == period * repeats and last == last[:period] * repeats:
                return end
    return None


def test_as_the_definition_says():
    source = random.Random(0)
    for _ in range(400):
        longest, repeats = source.randint(1, 6), source.randint(2, 4)
        ids = [source.randrange(source.choice([2, 3])) for _ in range(60)]
        loops, found = Loops(longest, repeats), None
        for at, token_id in enumerate(ids):
            if loops.extend(token_id):
                found = at + 1
                break
        assert found == by_definition(ids, longest, repeats)


def test_an_output_that_loops_ends():
    model = cp.Model(ARCHITECTURES["gpt2"].model())
    options = {"temperature": 0, "ignore_eos": True, "max_tokens": 60, "logit_bias": {7: 50.0, 9: 50.0}}

    def in_turn(prompt_ids, output_ids, scores):
        scores = scores.clone()
        scores[7 if len(output_ids) % 2 else 9] = 100.0
        return scores

    done = cp.generate(model, [5, 6], loop=(2, 4), processors=[in_turn], **options)
    assert done.finish_reason == "loop" and done.token_ids == (9, 7) * 4
    other = cp.generate(model, [5, 6], loop=(1, 4), processors=[in_turn], **options)
    assert other.finish_reason == "length"
    drafted = cp.generate(model, [5, 6], loop=(2, 4), processors=[in_turn], draft_tokens=5, **options)
    assert drafted.token_ids == done.token_ids and drafted.finish_reason == "loop"


@pytest.mark.parametrize("loop", [5, (1,), (0, 3), (3, 1), ("a", 2), (2, 2.0)])
def test_what_it_can_not_be(loop):
    with pytest.raises(SamplingError, match="loop"):
        cp.generate(cp.Model(ARCHITECTURES["gpt2"].model()), [5], loop=loop, max_tokens=2)
