"""Products of a few rows of states with a weight, at the speed at which memory gives the weight."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from counterpoint.models.kernels import build

#: products with fewer weights than this are made by one thread
LEAST_SHARED = 65536
#: most rows at which it is faster than torch's products, by the dtype of the states
MOST_ROWS = {torch.float32: 8, torch.bfloat16: 32}
NAMES = {
    (torch.float32, torch.float32): "f32_f32",
    (torch.float32, torch.int8): "f32_i8",
    (torch.bfloat16, torch.bfloat16): "bf16_bf16",
    (torch.bfloat16, torch.int8): "bf16_i8",
}

build.OPERATORS.define("few_rows(Tensor states, Tensor weight, Tensor? scale, Tensor? bias) -> Tensor")


def few_rows(states: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """`states @ weight.T * scale + bias`, summed in float32. Only where `is_available`.

    Args:
        states: (..., K), float32 or bfloat16, on the CPU.
        weight: (N, K), contiguous, of the states' dtype or int8.
        scale: (N,) float32. bias: (N,), of the states' dtype.
    """
    # What is traced needs an operator; elsewhere the call alone is quicker.
    product = torch.ops.counterpoint.few_rows if torch.compiler.is_compiling() else _product
    return product(states, weight, scale, bias)


def _product(states: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    if not weight.is_contiguous():
        raise ValueError(f"a weight of strides {weight.stride()} is not contiguous; call contiguous() on it")
    if states.shape[-1] != weight.shape[1]:
        raise ValueError(f"states of {states.shape[-1]} numbers can't be multiplied by a weight {tuple(weight.shape)}")
    states = states.contiguous()
    (num_out, size), out = weight.shape, states.new_empty((*states.shape[:-1], weight.shape[0]))
    failed = _kernels()[states.dtype, weight.dtype](
        states.data_ptr(),
        weight.data_ptr(),
        None if scale is None else scale.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        out.numel() // max(num_out, 1),
        num_out,
        size,
        torch.get_num_threads() if num_out * size >= LEAST_SHARED else 1,
    )
    if failed:
        raise MemoryError("no memory for a product with int8 weights")
    return out


def _shape(states: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


build.OPERATORS.impl("few_rows", _product, "CPU")
build.OPERATORS.impl("few_rows", _shape, "Meta")


@functools.cache
def _kernels() -> dict[tuple[torch.dtype, torch.dtype], Callable[..., int]]:
    library = build.loaded()
    kernels = {}
    for dtypes, name in NAMES.items():
        kernel = getattr(library, name)
        kernel.argtypes, kernel.restype = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3 + [ctypes.c_int], ctypes.c_int
        kernels[dtypes] = kernel
    return kernels


@build.checked
def is_available() -> bool:
    """Whether this machine has the kernel, and it gives what torch gives. The first call may compile it."""
    # Sizes fill no vector.
    source = torch.Generator().manual_seed(0)
    for dtype, weight_dtype in NAMES:
        for num_rows in (1, 2, 7):
            states = torch.randn(num_rows, 101, generator=source).to(dtype)
            weight = (torch.randn(23, 101, generator=source) * 40).round().to(weight_dtype)
            scale, bias = torch.rand(23, generator=source), torch.randn(23, generator=source).to(dtype)
            want = (states.float() @ weight.float().T) * scale + bias.float()
            got = _product(states, weight, scale, bias).float()
            if not (got - want).abs().max() <= max(2 * torch.finfo(dtype).eps, 1e-5) * want.abs().max():
                return False
    return True
