"""A processor that remembers something does so for one sample: the others, guesses and later requests have their own."""

import functools
import threading

import pytest
import torch
from conformance.architectures import ARCHITECTURES

import counterpoint as cp
from counterpoint.engine.processors import Processors
from counterpoint.errors import SamplingError


class NeverTwice:
    """Rules out what it has seen chosen, by its own memory."""

    def __init__(self):
        self.seen, self.num_calls = [], 0
        self.scale = torch.nn.Linear(1, 1)

    def __call__(self, prompt_ids, output_ids, scores):
        assert self.num_calls == len(output_ids) and self.seen == list(output_ids)[:-1]
        self.num_calls += 1
        self.seen += output_ids[-1:]
        scores = scores.clone()
        scores[self.seen] = -float("inf")
        return scores

    def method(self, *args):
        return self(*args)


@pytest.fixture(scope="module")
def model():
    return cp.Model(ARCHITECTURES["gpt2"].model())


OPTIONS = {"guide": cp.Guide(scale=2.0, space="prob"), "max_tokens": 20, "ignore_eos": True}


@pytest.mark.parametrize("draft_tokens", [0, 4])
@pytest.mark.parametrize("make", [NeverTwice, lambda: NeverTwice().method, lambda: functools.partial(NeverTwice())])
def test_samples_requests_and_guesses_have_states_of_their_own(model, make, draft_tokens):
    processor = make()
    options = {**OPTIONS, "processors": [processor], "draft_tokens": draft_tokens}
    together = cp.generate(model, [[5, 6, 7], [8, 9]], seed=[3, 8], n=2, **options)
    again = cp.generate(model, [5, 6, 7], seed=3, n=2, **options)
    alone = [
        cp.generate(model, prompt, seed=seed, **OPTIONS, processors=[make()])
        for prompt, seed in (([5, 6, 7], 3), ([5, 6, 7], 4), ([8, 9], 8), ([8, 9], 9))
    ]
    assert [done.token_ids for done in together] == [done.token_ids for done in alone]
    assert [done.token_ids for done in again] == [done.token_ids for done in alone[:2]]
    assert all(len(set(done.token_ids)) == 20 for done in alone)


def test_where_guidance_leaves_nothing_the_state_is_not_advanced_twice(model):
    class OnlyOne(NeverTwice):
        def __call__(self, prompt_ids, output_ids, scores):
            kept = scores[3].clone()
            return torch.full_like(super().__call__(prompt_ids, output_ids, scores) * 0, -float("inf")).index_fill(
                0, torch.tensor([3]), float(kept)
            )

    guide = cp.Guide(scale=3.0, plausibility=0.9)  # leaves the best alone
    done = cp.generate(model, [5, 6], negative=[7], guide=guide, max_tokens=6, temperature=0, processors=[OnlyOne()])
    assert done.token_ids == (3,) * 6


def test_modules_stay_shared_and_what_can_not_be_copied_says_so():
    processor = NeverTwice()
    (own,) = Processors([processor])
    assert own is not processor and own.scale is processor.scale and own.seen is not processor.seen
    processor.lock = threading.Lock()
    with pytest.raises(SamplingError, match="method fork"):
        Processors([processor])
