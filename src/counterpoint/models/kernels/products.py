"""How products.c is told what a weight is."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from counterpoint.models.kernels import build

#: products with fewer weights than this are made by one thread
LEAST_SHARED = 65536
#: what a weight is held as
KINDS = {torch.float32: 0, torch.bfloat16: 1, "I8": 2, "Q8_0": 3, "Q4_0": 4, "Q4_1": 5}

#: kind, whether states are bfloat16, N, K, and the addresses of the weight, its scales and the bias
Described = ctypes.c_int64 * 7


def described(
    kind: torch.dtype | str,
    states: torch.dtype,
    shape: tuple[int, int],
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
) -> ctypes.Array[ctypes.c_int64]:
    """A weight (N, K) as C takes it. Who calls keeps the tensors, which are contiguous; scale and bias are float32."""
    return Described(
        KINDS[kind],
        states is torch.bfloat16,
        *shape,
        weight.data_ptr(),
        0 if scale is None else scale.data_ptr(),
        0 if bias is None else bias.data_ptr(),
    )


def multiplied(states: Tensor, weight: ctypes.Array[ctypes.c_int64], num_out: int) -> Tensor:
    """states (..., K) @ weight.T * scale + bias -> (..., num_out), of the states' dtype.

    Raises:
        MemoryError: there is none for the product.
    """
    states = states.contiguous()
    size, out = states.shape[-1], states.new_empty((*states.shape[:-1], num_out))
    num_rows = out.numel() // max(num_out, 1)
    threads = torch.get_num_threads() if num_out * size >= LEAST_SHARED else 1
    if _kernel()(weight, states.data_ptr(), out.data_ptr(), num_rows, threads):
        raise MemoryError("no memory for a product")
    return out


@functools.cache
def _kernel() -> Callable[..., int]:
    kernel = build.loaded().product
    kernel.argtypes = [Described, *[ctypes.c_void_p] * 2, ctypes.c_int64, ctypes.c_int]
    kernel.restype = ctypes.c_int
    return kernel
