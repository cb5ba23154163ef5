"""The other kernel gives the same, and leaves nothing behind."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES

from counterpoint.models import linears
from counterpoint.models.linears import Linears


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 64, 65])
def test_same_logits_with_either_kernel(name, num_rows, monkeypatch):
    monkeypatch.setattr(linears, "is_slow_blas", lambda: torch.backends.mkldnn.is_available())
    model = ARCHITECTURES[name].model().float()
    ids = torch.arange(2, 2 + num_rows)[:, None]
    with torch.inference_mode():
        want = model(ids).logits
        with Linears(model).joint(num_rows):
            changed = [module for module in model.modules() if "forward" in module.__dict__]
            got = model(ids).logits
    assert bool(changed) == (2 <= num_rows <= 64 and torch.backends.mkldnn.is_available())
    assert not [module for module in model.modules() if "forward" in module.__dict__]
    assert torch.allclose(got, want, atol=1e-4, rtol=1e-4)


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
    with Linears(model).joint(4):
        assert "forward" not in block.up_proj.__dict__
        assert block.down_proj.forward is own
        assert "forward" in block.gate_proj.__dict__
    assert block.down_proj.forward is own


def test_an_error_inside_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(linears, "is_slow_blas", lambda: True)
    model = ARCHITECTURES["llama"].build().eval()
    with pytest.raises(KeyError), Linears(model).joint(4):
        raise KeyError
    assert not [module for module in model.modules() if "forward" in module.__dict__]
