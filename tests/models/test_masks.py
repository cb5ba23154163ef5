"""Masks of single positions that are kept: the model's own rules, whatever was forgotten in between."""

import ctypes

import pytest
import torch
from conformance.architectures import ARCHITECTURES

from counterpoint.models import masks
from counterpoint.models.buffers import zeros
from counterpoint.models.masks import KeptMasks, mask_rules, ragged_mask


def read(addresses, reach):
    rows = [list(ctypes.string_at(address, reach)) for address in addresses]
    return torch.tensor(rows, dtype=torch.bool)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral"])
@pytest.mark.parametrize("most_bytes", [masks.MOST_BYTES, 64 * 256])
def test_kept_masks_are_those_of_the_rules(monkeypatch, name, most_bytes):
    monkeypatch.setattr(masks, "MOST_BYTES", most_bytes)
    rules = mask_rules(ARCHITECTURES[name].build())
    kinds = list(rules) if isinstance(rules, dict) else [""]
    kept = KeptMasks(rules)
    for positions, reach in (([0, 5], 256), ([63, 64, 200], 256), ([5], 256), ([300, 7, 511], 512)):
        got = read(kept.addresses(kinds, positions, reach), reach).view(len(kinds), len(positions), reach)
        for kind, own in zip(kinds, got):
            rule = rules[kind] if isinstance(rules, dict) else rules
            assert torch.equal(own, ragged_mask(rule, torch.tensor(positions)[:, None], reach)[:, 0, 0])


def test_buffers_elsewhere_than_on_the_cpu():
    made = zeros((2, 3), torch.empty(1, dtype=torch.bfloat16, device="meta"))
    assert made.shape == (2, 3) and made.dtype is torch.bfloat16 and made.device.type == "meta"
