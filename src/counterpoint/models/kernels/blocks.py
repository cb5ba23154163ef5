"""Products with weights that stay in GGUF's blocks of 32, and the weights of such blocks."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from counterpoint.models.kernels import build
from counterpoint.models.kernels.few_rows import LEAST_SHARED

SIZE = 32  #: weights in a block
BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}  #: of a block

build.OPERATORS.define("blocks(Tensor states, Tensor weight, str kind, Tensor? bias) -> Tensor")
build.OPERATORS.define("block_weights(Tensor weight, str kind) -> Tensor")


def product(states: Tensor, weight: Tensor, kind: str, bias: Tensor | None = None) -> Tensor:
    """`states @ weights(weight).T + bias`, in float32 inside. Only where `is_available`; quick for few rows.

    Args:
        states: (..., K), float32 or bfloat16, on the CPU.
        weight: (N, K / 32 * BYTES[kind]) uint8, contiguous: rows of blocks as in the file.
        bias: (N,) float32.
    """
    # What is traced needs an operator; elsewhere the call alone is quicker.
    made = torch.ops.counterpoint.blocks if torch.compiler.is_compiling() else _product
    return made(states, weight, kind, bias)


def weights(weight: Tensor, kind: str) -> Tensor:
    """The weights of rows of blocks: (N, K) float32. Arguments as of `product`."""
    made = torch.ops.counterpoint.block_weights if torch.compiler.is_compiling() else _weights
    return made(weight, kind)


def width(weight: Tensor, kind: str) -> int:
    """K, the number of weights in a row.

    Raises:
        ValueError: the rows are no whole blocks, or do not lie one behind the other.
    """
    if not weight.is_contiguous() or weight.shape[1] % BYTES[kind]:
        raise ValueError(f"a weight {tuple(weight.shape)} of strides {weight.stride()} is no rows of {kind} blocks")
    return weight.shape[1] // BYTES[kind] * SIZE


def _product(states: Tensor, weight: Tensor, kind: str, bias: Tensor | None) -> Tensor:
    size, num_out = width(weight, kind), weight.shape[0]
    if states.shape[-1] != size:
        raise ValueError(f"states of {states.shape[-1]} numbers can't be multiplied by a weight ({num_out}, {size})")
    wide = states.float().contiguous()
    out = wide.new_empty((*states.shape[:-1], num_out))
    _kernels()[f"product_{kind.lower()}"](
        wide.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        out.numel() // max(num_out, 1),
        num_out,
        size,
        torch.get_num_threads() if num_out * size >= LEAST_SHARED else 1,
    )
    return out.to(states.dtype)


def _weights(weight: Tensor, kind: str) -> Tensor:
    out = torch.empty(weight.shape[0], width(weight, kind))
    threads = torch.get_num_threads() if out.numel() >= LEAST_SHARED else 1
    _kernels()[f"weights_{kind.lower()}"](weight.data_ptr(), out.data_ptr(), out.numel() // SIZE, threads)
    return out


def _product_shape(states: Tensor, weight: Tensor, kind: str, bias: Tensor | None) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


def _weights_shape(weight: Tensor, kind: str) -> Tensor:
    return weight.new_empty((weight.shape[0], weight.shape[1] // BYTES[kind] * SIZE), dtype=torch.float32)


build.OPERATORS.impl("blocks", _product, "CPU")
build.OPERATORS.impl("blocks", _product_shape, "Meta")
build.OPERATORS.impl("block_weights", _weights, "CPU")
build.OPERATORS.impl("block_weights", _weights_shape, "Meta")


@functools.cache
def _kernels() -> dict[str, Callable[..., None]]:
    library, kernels = build.loaded(), {}
    for kind in BYTES:
        for name, arguments in (
            (f"product_{kind.lower()}", [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int]),
            (f"weights_{kind.lower()}", [ctypes.c_void_p] * 2 + [ctypes.c_int64, ctypes.c_int]),
        ):
            kernels[name] = getattr(library, name)
            kernels[name].argtypes, kernels[name].restype = arguments, None
    return kernels


@build.checked
def is_available() -> bool:
    """Whether this machine has the kernels, and they give what the blocks say. The first call may compile them."""
    source = torch.Generator().manual_seed(0)
    for kind, size_bytes in BYTES.items():
        weight = torch.randint(0, 256, (23, 3 * size_bytes), generator=source, dtype=torch.uint8)
        blocks = weight.view(-1, size_bytes)
        blocks[:, 1] = 0x2C  # the scale: a small number
        if kind == "Q4_1":
            blocks[:, 3] = 0xAC
        want = _plainly(blocks, kind).view(23, 3 * SIZE)
        if not torch.allclose(_weights(weight, kind), want, rtol=1e-6, atol=1e-7):
            return False
        for num_rows in (1, 2, 7):
            states, bias = torch.randn(num_rows, 3 * SIZE, generator=source), torch.randn(23, generator=source)
            if not torch.allclose(_product(states, weight, kind, bias), states @ want.T + bias, rtol=1e-4, atol=1e-4):
                return False
    return True


def _plainly(blocks: Tensor, kind: str) -> Tensor:
    """The weights of blocks (B, bytes) as (B, 32), by torch."""
    scale = blocks[:, :2].view(torch.float16).float()
    if kind == "Q8_0":
        return scale * blocks[:, 2:].view(torch.int8)
    least = blocks[:, 2:4].view(torch.float16).float() if kind == "Q4_1" else -8 * scale
    nibbles = blocks[:, -16:]
    return scale * torch.cat([nibbles & 15, nibbles >> 4], 1) + least
