"""Attention of a few queries in each row, at the speed at which memory gives the keys and values."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from counterpoint.models.kernels import build

#: with fewer numbers than this in the keys one thread attends
LEAST_SHARED = 16384
NAMES = {torch.float32: "few_queries_f32", torch.bfloat16: "few_queries_bf16"}

_Shape = ctypes.c_int64 * 20

build.OPERATORS.define("few_queries(Tensor query, Tensor key, Tensor value, Tensor mask, float scaling) -> Tensor")


def few_queries(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """softmax(scaling * q k^T over what `mask` allows) v in float32, (R, Q, H, E). Only where `is_available`.

    Args:
        query: (R, H, Q, D), float32 or bfloat16, on the CPU.
        key, value: (R, G, N, D) and (R, G, N, E), of the query's dtype, H a multiple of G. What lies before or after
            all that a row may attend to is not read.
        mask: (R, 1 or H, Q, N) of bool, True where a query may attend; with none such its result is 0.
    """
    # What is traced needs an operator; elsewhere the call alone is quicker.
    attended = torch.ops.counterpoint.few_queries if build.is_traced() else _attended
    return attended(query, key, value, mask, scaling)


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    if not query.stride(3) == key.stride(3) == value.stride(3) == mask.stride(3) == 1:
        query, key, value, mask = (x.contiguous() for x in (query, key, value, mask))
    (num_rows, num_heads, num_queries, size), (_, num_groups, num_keys, value_size) = query.shape, value.shape
    own_mask = mask.shape[1] == num_heads
    if (
        mask.shape != (num_rows, num_heads if own_mask else 1, num_queries, num_keys)
        or key.shape != (num_rows, num_groups, num_keys, size)
        or num_heads % num_groups
        or (key.dtype, value.dtype, mask.dtype) != (query.dtype, query.dtype, torch.bool)
    ):
        given = [(tuple(x.shape), x.dtype) for x in (query, key, value, mask)]
        raise ValueError(f"query, key, value and mask do not belong together: {given}")
    of_row, of_head, of_query, _ = mask.stride()
    shape = _Shape(
        *(num_rows, num_heads, num_groups, num_queries, num_keys, size, value_size),
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        of_row, of_head if own_mask else 0, of_query,
        torch.get_num_threads() if num_rows * num_groups * num_keys * size >= LEAST_SHARED else 1,
    )  # fmt: skip
    out = query.new_empty((num_rows, num_queries, num_heads, value_size))
    failed = _kernels()[query.dtype](
        query.data_ptr(), key.data_ptr(), value.data_ptr(), mask.data_ptr(), out.data_ptr(), shape, scaling
    )
    if failed:
        raise MemoryError("no memory for attention")
    return out


def _shape(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    return query.new_empty((query.shape[0], query.shape[2], query.shape[1], value.shape[3]))


build.OPERATORS.impl("few_queries", _attended, "CPU")
build.OPERATORS.impl("few_queries", _shape, "Meta")


@functools.cache
def _kernels() -> dict[torch.dtype, Callable[..., int]]:
    library = build.loaded()
    kernels = {}
    for dtype, name in NAMES.items():
        kernel = getattr(library, name)
        kernel.argtypes, kernel.restype = [ctypes.c_void_p] * 6 + [ctypes.c_float], ctypes.c_int
        kernels[dtype] = kernel
    return kernels


@build.checked
def is_available() -> bool:
    """Whether this machine has the kernel, and it gives what torch gives. The first call may compile it."""
    # Sizes fill no vector and keys no block.
    source = torch.Generator().manual_seed(0)
    for dtype in NAMES:
        for num_queries, num_groups, size, value_size in ((1, 4, 64, 64), (3, 2, 40, 71), (8, 1, 7, 16)):
            query = torch.randn(2, 4, num_queries, size, generator=source).to(dtype)
            key = torch.randn(2, num_groups, 150, size, generator=source).to(dtype)
            value = torch.randn(2, num_groups, 150, value_size, generator=source).to(dtype)
            mask = torch.rand(2, 1, num_queries, 150, generator=source) > 0.5
            wide = (x.float().repeat_interleave(4 // num_groups, 1) for x in (key, value))
            want = torch.nn.functional.scaled_dot_product_attention(query.float(), *wide, mask, scale=0.3)
            got = _attended(query, key, value, mask, 0.3).float().transpose(1, 2)
            if not (got - want).abs().max() <= max(torch.finfo(dtype).eps, 1e-5) * want.abs().max():
                return False
    return True
