import importlib.util

import numpy as np
import pytest


@pytest.fixture(scope="module")
def model_class(pytestconfig):
    spec = importlib.util.spec_from_file_location(
        "ngram", pytestconfig.rootpath / "benchmarks" / "bundled" / "ngram.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KneserNey


def test_probabilities_sum_to_one_in_seen_and_unseen_contexts(model_class):
    rng = np.random.default_rng(0)
    model = model_class(rng.integers(0, 6, 400), vocab=8, order=3)
    for context in ([1, 2], [2, 7], [7, 7], [5]):
        total = sum(model.probabilities(np.array([*context, last]))[-1] for last in range(8))
        assert total == pytest.approx(1.0, abs=1e-12)


def test_a_bigram_model_worked_by_hand(model_class):
    """Text 0 1 0 1 0 2: bigrams 01 x2, 10 x2, 02 x1; D2 = 1/(1+2*2) = 0.2; left contexts of 0, 1, 2 are 1, 1, 1, so
    D1 = 0.5 (no count of two), p1(1) = (1 - 0.5)/3 + 0.5*3/3 * 1/4 = 7/24, and p(1 | 0) = (2-0.2)/3 + 0.2*2/3 * 7/24."""
    model = model_class(np.array([0, 1, 0, 1, 0, 2]), vocab=4, order=2)
    assert model.probabilities(np.array([0, 1]))[1] == pytest.approx(1.8 / 3 + 0.4 / 3 * 7 / 24)


def test_more_than_64_bits_are_refused(model_class):
    with pytest.raises(ValueError, match="do not fit 64 bits"):
        model_class(np.array([0, 1]), vocab=5000, order=2)
