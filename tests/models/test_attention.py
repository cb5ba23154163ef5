"""Attention of a few queries against transformers' own."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from counterpoint.models.attention import few_queries, few_queries_in


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


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.2])
def test_equal_to_sdpa(num_groups, additive, scaling):
    module = Module()
    module.num_key_value_groups = 4 // num_groups
    given = inputs(num_groups, additive=additive)
    want, _ = sdpa_attention_forward(module, *given, scaling=scaling)
    got, _ = few_queries(module, *given, scaling=scaling, sliding_window=5, position_ids=None)
    assert got.shape == want.shape == (2, 3, 4, 8)
    assert torch.allclose(got, want, atol=1e-5)


def test_what_it_does_not_know_goes_to_sdpa(monkeypatch):
    called = []
    monkeypatch.setattr(
        "counterpoint.models.attention.sdpa_attention_forward", lambda *_, **more: called.append(more) or (None, None)
    )
    few_queries(Module(), *inputs(2, additive=False), softcap=30.0)
    assert called == [{"softcap": 30.0}]


def test_the_model_has_its_own_attention_back():
    config = ARCHITECTURES["llama"].model().config
    before = config._attn_implementation
    with few_queries_in(ARCHITECTURES["llama"].model()):
        assert config._attn_implementation != before
    assert config._attn_implementation == before == "sdpa"
