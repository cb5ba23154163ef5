"""Attention of a few queries against transformers' own."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from counterpoint.models.attention import FewQueries, by_formula, by_kernel
from counterpoint.models.kernels import few_queries
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed


def inputs(num_groups, *, additive, num_queries=3):
    source = torch.Generator().manual_seed(num_groups)
    query = torch.randn(2, 4, num_queries, 8, generator=source)
    key, value = torch.randn(2, 2, num_groups, 10, 8, generator=source)
    mask = torch.rand(2, 1, num_queries, 10, generator=source) > 0.4
    mask[..., 0] = True
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    return query, key, value, mask


class Module(nn.Module):
    is_causal = True


needs_kernel = pytest.mark.skipif(not few_queries.is_available(), reason="no C compiler")
WAYS = [by_formula, pytest.param(by_kernel, marks=needs_kernel)]


@pytest.mark.parametrize("attend", WAYS)
@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.2])
def test_equal_to_sdpa(attend, num_groups, additive, scaling):
    module = Module()
    module.num_key_value_groups = 4 // num_groups
    given = inputs(num_groups, additive=additive)
    want, _ = sdpa_attention_forward(module, *given, scaling=scaling)
    got, _ = attend(module, *given, scaling=scaling, sliding_window=5, position_ids=None)
    assert got.shape == want.shape == (2, 3, 4, 8)
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("attend", [by_formula, by_kernel])
def test_what_it_does_not_know_goes_to_sdpa(attend, monkeypatch):
    called = []
    monkeypatch.setattr(
        "counterpoint.models.attention.sdpa_attention_forward", lambda *_, **more: called.append(more) or (None, None)
    )
    attend(Module(), *inputs(2, additive=False), softcap=30.0)
    assert called == [{"softcap": 30.0}]


def test_the_model_has_its_own_attention_back():
    model = ARCHITECTURES["llama"].model()
    config = model.config
    before = config._attn_implementation
    with pytest.raises(KeyError), FewQueries(model).joint(1, traced=True):
        assert config._attn_implementation != before
        raise KeyError
    assert config._attn_implementation == before == "sdpa"


@needs_kernel
def test_the_kernel_is_for_few_queries_only():
    model = ARCHITECTURES["llama"].model()
    for compiled, num_queries, expected in (
        (True, 1, "counterpoint_kernel"),
        (True, 8, "counterpoint_kernel"),
        (True, 9, "sdpa"),
        (False, 1, "sdpa"),
    ):
        with FewQueries(model, compiled=compiled).joint(num_queries):
            assert model.config._attn_implementation == expected


@needs_kernel
def test_steps_go_by_the_kernel(monkeypatch):
    model, calls = Model(ARCHITECTURES["llama"].model()), []
    kernel = few_queries.few_queries
    monkeypatch.setattr(few_queries, "few_queries", lambda *given: calls.append(given[0].shape[2]) or kernel(*given))
    model._recorded = None  # a recorded step attends from within
    rows = model.new_rows()
    row = rows.add()
    calls.clear()  # those of the trial
    with torch.inference_mode():
        rows.forward([Feed(row, list(range(1, 20)))])
        assert not calls
        rows.forward([Feed(row, [20])])
    assert calls == [1] * model.hf.config.num_hidden_layers


@needs_kernel
@pytest.mark.parametrize("more, is_kernel", [({"output_router_logits": False}, True), ({"of_its_own": 5.0}, False)])
def test_only_an_argument_that_asks_for_something_is_left_to_transformers(monkeypatch, more, is_kernel):
    used, kernel = [], few_queries.few_queries
    monkeypatch.setattr(few_queries, "few_queries", lambda *given: used.append(1) or kernel(*given))
    module = Module()
    module.num_key_value_groups = 2
    by_kernel(module, *inputs(2, additive=False), **more)
    assert bool(used) == is_kernel
