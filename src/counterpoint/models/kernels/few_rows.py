"""Products of a few rows of states with a weight, at the speed at which memory gives the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.models.kernels import build
from counterpoint.models.kernels.products import described, multiplied

#: most rows at which it is faster than torch's products, by the dtype of the states
MOST_ROWS = {torch.float32: 64, torch.bfloat16: 64}
MOST_ALIKE = 6  #: most rows that are each summed in one order, whatever stands beside them

build.OPERATORS.define("few_rows(Tensor states, Tensor weight, Tensor? bias) -> Tensor")


def few_rows(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`states @ weight.T + bias`, summed in float32. Only where `is_available`.

    Args:
        states: (..., K), float32 or bfloat16, on the CPU.
        weight: (N, K), contiguous, of the states' dtype. bias: (N,), likewise.
    """
    # What is traced needs an operator; elsewhere the call alone is quicker.
    product = torch.ops.counterpoint.few_rows if build.is_traced() else _product
    return product(states, weight, bias)


def _product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not weight.is_contiguous():
        raise ValueError(f"a weight of strides {weight.stride()} is not contiguous; call contiguous() on it")
    if states.shape[-1] != weight.shape[1]:
        raise ValueError(f"states of {states.shape[-1]} numbers can't be multiplied by a weight {tuple(weight.shape)}")
    if states.dtype is not weight.dtype or weight.dtype not in MOST_ROWS:
        raise ValueError(f"states of {states.dtype} can't be multiplied by a weight of {weight.dtype}")
    wide = None if bias is None else bias.float()
    return multiplied(states, described(weight.dtype, states.dtype, weight.shape, weight, None, wide), len(weight))


def _shape(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


build.OPERATORS.impl("few_rows", _product, "CPU")
build.OPERATORS.impl("few_rows", _shape, "Meta")


@build.checked
def is_available() -> bool:
    """Whether this machine has the kernel, and it gives what torch gives. The first call may compile it."""
    # Sizes fill no vector; one that fours divide is read in panels where rows are many.
    source = torch.Generator().manual_seed(0)
    for dtype in MOST_ROWS:
        for num_rows in (1, 2, 7, 21):
            states = torch.randn(num_rows, 100 + (num_rows < 9), generator=source).to(dtype)
            weight = torch.randn(23, states.shape[1], generator=source).to(dtype)
            bias = torch.randn(23, generator=source).to(dtype)
            want = states.float() @ weight.float().T + bias.float()
            got = _product(states, weight, bias).float()
            if not (got - want).abs().max() <= max(2 * torch.finfo(dtype).eps, 1e-5) * want.abs().max():
                return False
    return True
