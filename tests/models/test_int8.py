"""int8 weights: the tokens of the same model with the rounded weights written out, in a stateless loop."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from engine.oracle import assert_same, guided_tokens
from torch import nn

import counterpoint as cp
from counterpoint.errors import ModelError, UnsupportedError
from counterpoint.models import int8
from counterpoint.models.int8 import Int8Linear, to_int8
from counterpoint.models.kernels import few_rows

needs_kernel = pytest.mark.skipif(not few_rows.is_available(), reason="no C compiler")
PROMPT, NEGATIVE = [5, 9, 13, 2, 40], [7, 3, 11]


def written_out(name):
    """The model as to_int8 makes it, and the same with ordinary layers whose weights are the rounded ones."""
    rounded, plain = ARCHITECTURES[name].build().eval(), ARCHITECTURES[name].build().eval()
    plain.load_state_dict(rounded.state_dict())
    to_int8(rounded)
    for module_name, module in rounded.named_modules():
        if isinstance(module, Int8Linear):
            parent, _, own = module_name.rpartition(".")
            layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            layer.weight.data = module.dequantised(torch.float32)
            if module.bias is not None:
                layer.bias.data = module.bias
            setattr(plain.get_submodule(parent), own, layer)
    return rounded, plain


@needs_kernel
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_tokens_of_the_rounded_weights(name):
    rounded, plain = written_out(name)
    model = cp.Model(rounded)
    for negative, weights in [(None, []), (NEGATIVE, [-2.0])]:
        done = cp.generate(
            model, PROMPT, negative=negative, guide=cp.Guide(scale=3.0) if negative else None, max_tokens=24,
            temperature=0, ignore_eos=True,
        )  # fmt: skip
        want, margins = guided_tokens(plain, PROMPT, [negative] if negative else [], weights, num_tokens=24)
        assert_same(done.token_ids, want, margins)


@needs_kernel
@pytest.mark.parametrize("num_rows", [1, 9, 65])
def test_few_and_many_rows_agree(num_rows):
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(20, 48), torch.randn(20))
    assert layer(torch.full((1, 48), float("nan"))).isnan().all()
    states = torch.randn(num_rows, 48)
    want = nn.functional.linear(states, layer.dequantised(torch.float32), layer.bias)
    assert torch.allclose(layer(states), want, atol=1e-4)


def test_rounding_is_within_half_a_step_and_zero_rows_stay():
    weight = torch.randn(6, 40)
    weight[2] = 0
    layer = Int8Linear(weight, None)
    assert bool(((layer.dequantised(torch.float32) - weight).abs() <= 0.5001 * layer.scale[:, None]).all())
    assert not layer.dequantised(torch.float32)[2].any() and int(layer.weight.view(torch.int8).abs().max()) == 127


@needs_kernel
def test_a_head_that_shared_the_embedding_leaves_it_as_it_was():
    hf = ARCHITECTURES["gpt2"].build().eval()
    embedding = hf.get_input_embeddings().weight.clone()
    to_int8(hf)
    assert torch.equal(hf.get_input_embeddings().weight, embedding)
    assert isinstance(hf.get_output_embeddings(), Int8Linear) and hf.dtype is torch.float32


def test_what_can_not_be_rounded_is_told(monkeypatch):
    with pytest.raises(UnsupportedError, match="float16"):
        to_int8(ARCHITECTURES["llama"].build().half())
    monkeypatch.setattr(few_rows, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="need a C compiler"):
        to_int8(ARCHITECTURES["llama"].build())
    with pytest.raises(ModelError, match="weights is 'int3'; use 'int8'"):
        cp.load("bundled", weights="int3")
    with pytest.raises(UnsupportedError, match="int4 weights are the blocks of a GGUF file"):
        cp.load("bundled", weights="int4")


@needs_kernel
def test_loaded_by_name():
    model = cp.load("bundled", weights="int8")
    assert any(isinstance(module, Int8Linear) for module in model.hf.modules())
    assert cp.generate(model, "The old man", max_tokens=3, temperature=0).text


assert VOCAB > max(PROMPT) and int8.MOST_ROWS < 65
