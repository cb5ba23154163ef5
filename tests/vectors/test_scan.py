"""A scan of layers: measured on pairs that a direction was not fitted on."""

import copy

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from vectors.test_with_vector import logprobs

import counterpoint as cp
from counterpoint.vectors.scan import scan

SOURCE = torch.Generator().manual_seed(0)
#: the first texts end in one token, the second in another, after beginnings of their own
PAIRS = [
    ([*begin, 17], [*begin, 40])
    for begin in torch.randint(3, 110, (6, 5), generator=SOURCE).tolist()
]  # fmt: skip


@pytest.fixture(scope="module")
def llama():
    return cp.Model(ARCHITECTURES["llama"].model(), compile=False)


def divergence(p, q):
    return float((p.exp() * (p - q)).sum())


def test_what_is_moved_is_what_a_hooked_loop_says(llama):
    """Two folds by hand: each pair's direction comes from the other pairs alone."""
    pairs = PAIRS[:2]
    (found,) = scan(llama, [*pairs, *PAIRS[2:4]], layers=[0])
    apart = left = 0.0
    for number in range(4):
        others = [pair for n, pair in enumerate(PAIRS[:4]) if n != number]
        vector = cp.Vector.fit(llama, others, layers=[0])
        first, second = (logprobs(llama.hf, "llama", ids) for ids in PAIRS[number])
        moved = logprobs(llama.hf, "llama", PAIRS[number][1], vector)
        apart, left = apart + divergence(first, second), left + divergence(first, moved)
    assert found.recovered == pytest.approx(1 - left / apart, abs=1e-4)


@pytest.fixture(scope="module")
def quiet(llama):
    """Its layers add little, so the states after them are nearly the last token's embedding."""
    hf = copy.deepcopy(llama.hf)
    for layer in hf.model.layers:
        layer.self_attn.o_proj.weight.data.mul_(0.1)
        layer.mlp.down_proj.weight.data.mul_(0.1)
    return cp.Model(hf, compile=False)


def test_a_direction_that_all_pairs_share_is_found(quiet):
    heard = []
    found = scan(quiet, PAIRS, layers=[0, 1], on_layer=heard.append)
    assert heard == found and [layer.layer for layer in found] == [0, 1]
    assert found[0].told == 1 and found[0].share > 0.5 and found[0].recovered > 0.3
    assert all(layer.size > 0 for layer in found)


def test_the_opposite_strength_leads_away(quiet):
    assert scan(quiet, PAIRS, layers=[0], strength=-1.0)[0].recovered < 0


def test_a_strength_can_be_a_share_of_the_states(quiet):
    """As far as the texts are apart and as long as the states are the same direction: only the strengths differ."""
    vector, long = (cp.Vector.fit(quiet, PAIRS, layers=[0], length=length) for length in ("difference", "states"))
    factor = float(vector.directions[0].norm() / long.directions[0].norm())
    (found,) = scan(quiet, PAIRS, layers=[0])
    (shared,) = scan(quiet, PAIRS, layers=[0], length="states", strength=factor)
    assert found.size == pytest.approx(factor, rel=1e-4) and shared.size == found.size
    assert shared.recovered == pytest.approx(found.recovered, abs=0.1)  # each fold has a length of its own
