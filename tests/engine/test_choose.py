"""Scores from logits are the formula's, where a logit is infinite the formula decides, and sequences that are chosen for
together get what each gets alone."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from engine.oracle import run_to_the_end

import counterpoint as cp
from counterpoint import formulas
from counterpoint.engine import Engine, prepare
from counterpoint.engine.choose import _from_logits
from counterpoint.errors import Failure

INF = float("inf")


def sequence(cond, others, weights):
    return SimpleNamespace(predicted=lambda: [torch.tensor(cond), *map(torch.tensor, others)], needed_weights=weights)


def guided(cond, others, weights):
    rows = formulas.log_probs(torch.tensor([cond, *others]))
    return formulas.guided(rows[:1], rows[None, 1:], torch.tensor([weights]))[0]


def by_formula(cond, others, weights):
    return int(guided(cond, others, weights).argmax())


def test_several_branches_and_sequences_give_what_the_formula_gives():
    source = torch.Generator().manual_seed(0)
    cases = []
    for _ in range(50):
        logits = (5 * torch.randn(4, 30, generator=source)).bfloat16().float()
        cases.append((logits[0].tolist(), logits[1:].tolist(), torch.randn(3, generator=source).tolist()))
    group = [sequence(*case) for case in cases]
    assert _from_logits(group, True).argmax(-1).tolist() == [by_formula(*case) for case in cases]
    assert _from_logits(group, False).argmax(-1).tolist() == [
        max(range(30), key=cond.__getitem__) for cond, _, _ in cases
    ]
    for scores, case in zip(_from_logits(group, True), cases):
        assert torch.allclose(scores.softmax(-1), guided(*case).exp(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "cond, other, weight",
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, -INF], -1.0),  # pushed away from what the other rules out: says nothing
        ([1.0, 2.0, -INF], [3.0, 0.0, -INF], -1.0),
        ([1.0, 2.0, -INF], [1.0, 0.0, 3.0], 0.5),
        ([-INF, -INF, -INF], [1.0, 0.0, 3.0], -1.0),
    ],
)
def test_infinite_logits_are_left_to_the_formula(cond, other, weight):
    assert _from_logits([sequence(cond, [other], [weight])], True) is None


@pytest.mark.parametrize(
    "cond, other, weight", [([1.0, 2.0, -INF], [1.0, 0.0, 3.0], -1.0), ([5.0, 4.0, 3.0], [-INF, 0.0, 1.0], 0.5)]
)
def test_what_is_ruled_out_does_not_keep_the_others_from_being_compared(cond, other, weight):
    assert _from_logits([sequence(cond, [other], [weight])], True).argmax(-1) == by_formula(cond, [other], [weight])


SAMPLINGS = [
    {},
    {"temperature": 0.7},
    {"top_p": 0.9},
    {"temperature": 1.3, "top_k": 20, "min_p": 0.01},
    {"temperature": 0},
    {"temperature": 0, "top_k": 3},
    {"repetition_penalty": 1.2},
]
OPTIONS = [
    {"guide": cp.Guide(scale=2.0)},
    {"guide": cp.Guide(scale=2.0, space="prob")},
    {"guide": cp.Guide(scale=3.0, plausibility=0.1)},
    {"guide": cp.Guide(scale=2.0), "logprobs": 2},
]


def run(model, requests):
    engine = Engine(model)
    for request in requests:
        engine.add(prepare(model, **request))
    return run_to_the_end(engine)


def test_sequences_get_together_what_each_gets_alone():
    model = cp.Model(ARCHITECTURES["llama"].model())
    requests = [
        {
            "prompt": [5 + i, 6, 7],
            "negative": [8, 9 + i],
            "seed": i,
            "max_tokens": 12,
            "ignore_eos": True,
            **more,
            **how,
        }
        for i, (more, how) in enumerate(itertools.product(SAMPLINGS, OPTIONS))
    ]
    done, failed = run(model, requests)
    assert not failed
    for i, request in enumerate(requests):
        assert run(model, [request])[0][0] == done[i], request


def test_a_prediction_that_is_not_a_number_ends_its_own_request():
    model = cp.Model(ARCHITECTURES["llama"].model())

    def spoil(_module, args, output):
        output[(args[0] == 77).any(-1)] = math.nan

    requests = [{"prompt": [5, token], "seed": 1, "max_tokens": 6, "ignore_eos": True} for token in (6, 77, 7)]
    alone = [run(model, [requests[i]])[0][0] for i in (0, 2)]
    hook = model.hf.get_input_embeddings().register_forward_hook(spoil)
    done, failed = run(model, requests)
    hook.remove()
    assert [done[0], done[2]] == alone
    assert list(failed) == [1] and isinstance(failed[1], Failure)
