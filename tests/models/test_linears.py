"""The other kernel gives the same, and leaves nothing behind."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES

from counterpoint.models import linears
from counterpoint.models.kernels import few_rows
from counterpoint.models.linears import Linears


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 33, 130])
@pytest.mark.parametrize("compiled", [False, True])
def test_same_logits_with_either_kernel(name, num_rows, compiled, monkeypatch):
    monkeypatch.setattr(linears, "is_slow_blas", lambda: torch.backends.mkldnn.is_available())
    model = ARCHITECTURES[name].model().float()
    ids = (2 + torch.arange(num_rows) % 50)[:, None]
    with torch.inference_mode():
        want = model(ids).logits
        with Linears(model, compiled=compiled).joint():
            changed = [module for module in model.modules() if "forward" in module.__dict__]
            got = model(ids).logits
    usable = torch.backends.mkldnn.is_available() or (compiled and few_rows.is_available())
    assert bool(changed) == usable
    assert not [module for module in model.modules() if "forward" in module.__dict__]
    assert torch.allclose(got, want, atol=1e-4, rtol=1e-4)


def test_onednn_sees_few_different_numbers_of_rows(monkeypatch):
    monkeypatch.setattr(linears, "is_slow_blas", lambda: torch.backends.mkldnn.is_available())
    layer, seen = torch.nn.Linear(16, 8).eval(), set()
    by_onednn = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda rows, *more: seen.add(len(rows)) or by_onednn(rows, *more)
    )
    with torch.inference_mode():
        for num_rows in (*range(9, 700, 3), 1024, 1500):
            states = torch.randn(num_rows, 16)
            assert torch.allclose(linears._by_onednn(states, layer.weight, layer.bias), layer(states), atol=1e-5)
    assert seen <= {*range(1, 8), *range(8, 64, 4), *range(64, 513, 64)}


def test_subclasses_and_replaced_forwards_are_left_alone(monkeypatch):
    monkeypatch.setattr(linears, "is_slow_blas", lambda: True)

    class Doubled(torch.nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    model = ARCHITECTURES["llama"].build().eval()
    block = model.model.layers[0].mlp
    block.up_proj = Doubled(32, 64)
    mine = block.down_proj.forward
    block.down_proj.forward = lambda states: mine(states)
    own = block.down_proj.forward
    with Linears(model).joint():
        assert "forward" not in block.up_proj.__dict__
        assert block.down_proj.forward is own
        assert "forward" in block.gate_proj.__dict__
    assert block.down_proj.forward is own


def test_an_error_inside_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(linears, "is_slow_blas", lambda: True)
    model = ARCHITECTURES["llama"].build().eval()
    with pytest.raises(KeyError), Linears(model).joint():
        raise KeyError
    assert not [module for module in model.modules() if "forward" in module.__dict__]


def test_another_layout_in_memory_is_saved_as_it_was(tmp_path):
    model = ARCHITECTURES["gpt2"].build().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Linears(model, compiled=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_weights_of_another_dtype_than_the_states_are_left_to_torch():
    model = ARCHITECTURES["llama"].build().eval()
    states = torch.randn(2, 32, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16), Linears(model, compiled=True).joint():
        got = model.model.layers[0].mlp.gate_proj(states)
    assert got.dtype is torch.bfloat16
