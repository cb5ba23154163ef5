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
from counterpoint.engine.scores import Scores, drawn, is_available
from counterpoint.errors import Failure
from counterpoint.models.kernels import build
from counterpoint.sampling import NEG_INF, Sampling, generator

INF = float("inf")


@pytest.fixture(params=[True, False], ids=["kernel", "torch"])
def kernel(request):
    if request.param and not build.has_compiler():
        pytest.skip("no C compiler")
    return request.param


def sequence(cond, others, weights, *, kernel, plausibility=0.0, dtype=torch.float32, seed=3, **sampling):
    rows = [torch.tensor(row, dtype=dtype) for row in (cond, *others)]
    return SimpleNamespace(
        predicted=lambda: rows,
        needed_weights=weights,
        guide=cp.Guide(plausibility=plausibility),
        model=SimpleNamespace(has_kernels=kernel),
        request=SimpleNamespace(sampling=Sampling(**sampling)),
        source=generator(seed),
    )


def guided(cond, others, weights, plausibility=0.0, left=None):
    logits = torch.tensor([cond, *others])
    rows = formulas.log_probs(logits) if left is None else formulas.conditioned(logits[None], left[None])[0]
    plausible = torch.tensor([plausibility]) if plausibility else None
    return formulas.guided(rows[:1], rows[None, 1:], torch.tensor([weights]), plausibility=plausible)[0]


def by_formula(cond, others, weights):
    return int(guided(cond, others, weights).argmax())


def random_cases(num, num_others, size):
    source = torch.Generator().manual_seed(size)
    cases = []
    for _ in range(num):
        logits = (5 * torch.randn(1 + num_others, size, generator=source)).bfloat16().float()
        cases.append((logits[0].tolist(), logits[1:].tolist(), torch.randn(num_others, generator=source).tolist()))
    return cases


def test_the_kernel_is_used_here():
    assert is_available() or not build.has_compiler()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 15, 16, 30, 1000])
@pytest.mark.parametrize("num_others", [1, 3])
@pytest.mark.parametrize("plausibility", [0.0, 0.02, 1.0])
def test_several_branches_and_sequences_give_what_the_formula_gives(kernel, dtype, size, num_others, plausibility):
    cases = random_cases(20, num_others, size)
    group = [sequence(*case, kernel=kernel, plausibility=plausibility, dtype=dtype) for case in cases]
    scores = Scores(group, applied=True)
    for row, found, case in zip(scores.written(), scores.best, cases):
        want = guided(*case, plausibility)
        assert torch.allclose(row.softmax(-1), want.exp(), rtol=1e-4, atol=1e-7)
        assert found == want.argmax()
    plain = Scores(group, applied=False)
    assert plain.written().tolist() == [cond for cond, _, _ in cases]
    assert plain.best == [max(range(size), key=cond.__getitem__) for cond, _, _ in cases]


def test_what_a_constraint_leaves_out_is_left_out_before_plausibility(kernel):
    cases = random_cases(8, 2, 100)
    group = [sequence(*case, kernel=kernel, plausibility=0.1) for case in cases]
    left = torch.rand(8, 100, generator=generator(0)) > 0.6
    scores = Scores(group, applied=True, left=left)
    for row, found, case, own in zip(scores.written(), scores.best, cases, left):
        want = guided(*case, 0.1, own)
        assert torch.allclose(row.softmax(-1), want.exp(), rtol=1e-4, atol=1e-7)
        assert found == want.argmax()


@pytest.mark.parametrize(
    "cond, other, weight",
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, -INF], -1.0),  # pushed away from what the other rules out: says nothing
        ([1.0, 2.0, -INF], [3.0, 0.0, -INF], -1.0),
        ([1.0, 2.0, -INF], [1.0, 0.0, 3.0], 0.5),
        ([-INF, -INF, -INF], [1.0, 0.0, 3.0], -1.0),
        ([1.0, 2.0, 3.0], [INF, 0.0, 3.0], 0.0),
        ([1.0, 2.0, 3.0], [math.nan, 0.0, 3.0], -1.0),
        ([math.nan, 2.0, 3.0], [1.0, 0.0, 3.0], -1.0),
        ([1.0, INF, 3.0], [1.0, 0.0, 3.0], -1.0),
    ],
)
@pytest.mark.parametrize("size", [3, 40])
def test_infinite_logits_are_left_to_the_formula(kernel, cond, other, weight, size):
    more = [0.5] * (size - 3)
    group = [
        sequence([*cond, *more], [[*other, *more]], [weight], kernel=kernel),
        sequence([0.0] * size, [[0.0] * size], [weight], kernel=kernel),
    ]
    found = Scores(group, applied=True).best
    assert found[1] == 0
    # With more tokens what is at -inf in the prompt's branch alone is only left out.
    assert found[0] == -1 or (size > 3 and found[0] == by_formula([*cond, *more], [[*other, *more]], [weight]))


@pytest.mark.parametrize(
    "cond, other, weight", [([1.0, 2.0, -INF], [1.0, 0.0, 3.0], -1.0), ([5.0, 4.0, 3.0], [-INF, 0.0, 1.0], 0.5)]
)
def test_what_is_ruled_out_does_not_keep_the_others_from_being_compared(kernel, cond, other, weight):
    assert Scores([sequence(cond, [other], [weight], kernel=kernel)], applied=True).best == [
        by_formula(cond, [other], [weight])
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [5, 64, 1000, 3333])
def test_draws_are_those_of_the_scores(dtype, size):
    """Weighed where they are read, as they are of scores that were written."""
    if not is_available():
        pytest.skip("no C compiler")
    cases, left = random_cases(9, 2, size), torch.rand(9, size, generator=generator(2)) > 0.4
    groups = [
        [
            sequence(*case, kernel=kernel, dtype=dtype, plausibility=0.01 * (i % 2), seed=i, temperature=0.5 + i)
            for i, case in enumerate(cases)
        ]
        for kernel in (True, False)
    ]
    scores = [Scores(group, applied=True, left=left) for group in groups]
    for _ in range(5):
        assert scores[0].drawn(groups[0]) == scores[1].drawn(groups[1])


@pytest.mark.parametrize("size", [5, 64, 1000, 50_257])
def test_the_kernel_draws_what_torch_draws(size):
    if not is_available():
        pytest.skip("no C compiler")
    scores = (3 * torch.randn(24, size, generator=generator(size))).where(
        torch.rand(24, size, generator=generator(1)) > 0.2, NEG_INF
    )
    scores[:, 0] = 1.0
    ids = []
    for kernel in (True, False):
        for more in ({}, {"top_p": 0.8}):
            group = [
                sequence([0.0], [], [], kernel=kernel, seed=i, temperature=t, **more)
                for i, t in enumerate([1.0, 0.7, 1e-12, 30.0] * 6)
            ]
            ids.append([drawn(group, scores) for _ in range(3)])
    assert ids[:2] == ids[2:]
    assert len({token for row in ids[0] for token in row}) > 4


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
