"""Products with weights that stay in GGUF's blocks of 32, and the weights of such blocks.

A weight is (N, bytes of a row) uint8. As it comes from a file its rows lie one behind the other; `laid` gives it in the same
number of bytes as the kernels read it, 16 rows together.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from counterpoint.models.kernels import build
from counterpoint.models.kernels.products import KINDS, LEAST_SHARED, described, multiplied

SIZE = 32  #: weights in a block
BYTES = {"I8": 32, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20}  #: of a block; I8 is whole numbers alone

build.OPERATORS.define("blocks(Tensor states, Tensor weight, str kind, Tensor? scale, Tensor? bias) -> Tensor")
build.OPERATORS.define("block_weights(Tensor weight, str kind, Tensor? rows) -> Tensor")


def laid(weight: Tensor, kind: str) -> Tensor:
    """Rows of blocks as in a file, as the kernels read them. Only where `is_available`.

    Raises:
        ValueError: the rows are no whole blocks, or do not lie one behind the other.
    """
    num_blocks, out = width(weight, kind) // SIZE, torch.empty_like(weight)
    _kernels()["blocks_laid"](
        KINDS[kind], weight.data_ptr(), out.data_ptr(), len(weight), num_blocks, torch.get_num_threads()
    )
    return out


def product(
    states: Tensor, weight: Tensor, kind: str, bias: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """`states @ weights(weight).T * scale + bias`, summed in float32. Only where `is_available`.

    In bfloat16, on processors with AVX-512 VNNI, states are 16-bit whole numbers for each block of 32.

    Args:
        states: (..., K), float32 or bfloat16, on the CPU.
        weight: (N, K / 32 * BYTES[kind]) uint8, contiguous, as `laid` gives it.
        bias, scale: (N,) float32; a scale for I8 alone.
    """
    # What is traced needs an operator; elsewhere the call alone is quicker.
    made = torch.ops.counterpoint.blocks if build.is_traced() else _product
    return made(states, weight, kind, scale, bias)


def weights(weight: Tensor, kind: str, rows: Tensor | None = None) -> Tensor:
    """The weights of blocks, (N, K) float32; with `rows` (M,), whole numbers, those of these rows, (M, K)."""
    made = torch.ops.counterpoint.block_weights if build.is_traced() else _weights
    return made(weight, kind, rows)


def width(weight: Tensor, kind: str) -> int:
    """K, the number of weights in a row.

    Raises:
        ValueError: the rows are no whole blocks, or do not lie one behind the other.
    """
    if not weight.is_contiguous() or weight.shape[1] % BYTES[kind]:
        raise ValueError(f"a weight {tuple(weight.shape)} of strides {weight.stride()} is no rows of {kind} blocks")
    return weight.shape[1] // BYTES[kind] * SIZE


def _product(states: Tensor, weight: Tensor, kind: str, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    size, num_out = width(weight, kind), len(weight)
    if states.shape[-1] != size:
        raise ValueError(f"states of {states.shape[-1]} numbers can't be multiplied by a weight ({num_out}, {size})")
    return multiplied(states, described(kind, states.dtype, (num_out, size), weight, scale, bias), num_out)


def _weights(weight: Tensor, kind: str, rows: Tensor | None) -> Tensor:
    num = len(weight) if rows is None else len(rows)
    if rows is not None:
        rows = rows.long().contiguous()
        if num and not 0 <= int(rows.min()) <= int(rows.max()) < len(weight):
            raise IndexError(f"rows from {int(rows.min())} to {int(rows.max())} of a weight of {len(weight)}")
    out = torch.empty(num, width(weight, kind))
    _kernels()["block_weights"](
        KINDS[kind],
        weight.data_ptr(),
        None if rows is None else rows.data_ptr(),
        num,
        out.data_ptr(),
        len(weight),
        out.shape[1] // SIZE,
        torch.get_num_threads() if out.numel() >= LEAST_SHARED else 1,
    )
    return out


def _product_shape(states: Tensor, weight: Tensor, kind: str, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


def _weights_shape(weight: Tensor, kind: str, rows: Tensor | None) -> Tensor:
    num = weight.shape[0] if rows is None else rows.shape[0]
    return weight.new_empty((num, weight.shape[1] // BYTES[kind] * SIZE), dtype=torch.float32)


build.OPERATORS.impl("blocks", _product, "CPU")
build.OPERATORS.impl("blocks", _product_shape, "Meta")
build.OPERATORS.impl("block_weights", _weights, "CPU")
build.OPERATORS.impl("block_weights", _weights_shape, "Meta")


@functools.cache
def _kernels() -> dict[str, Callable[..., None]]:
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    arguments = {
        "blocks_laid": [whole, pointer, pointer, whole, whole, ctypes.c_int],
        "block_weights": [whole, pointer, pointer, whole, pointer, whole, whole, ctypes.c_int],
    }
    kernels = {}
    for name, types in arguments.items():
        kernels[name] = getattr(build.loaded(), name)
        kernels[name].argtypes, kernels[name].restype = types, None
    return kernels


@build.checked
def is_available() -> bool:
    """Whether this machine has the kernels, and they give what the blocks say. The first call may compile them."""
    source = torch.Generator().manual_seed(0)
    for kind, size_bytes in BYTES.items():
        raw = torch.randint(0, 256, (37, 3 * size_bytes), generator=source, dtype=torch.uint8)
        blocks = raw.view(-1, size_bytes)
        if kind != "I8":
            blocks[:, 1] = 0x2C  # the scale: a small number
        if kind == "Q4_1":
            blocks[:, 3] = 0xAC
        want, weight = _plainly(blocks, kind).view(37, 3 * SIZE), laid(raw, kind)
        if not torch.allclose(_weights(weight, kind, None), want, rtol=1e-6, atol=1e-7):
            return False
        for num_rows, dtype in ((1, torch.float32), (2, torch.bfloat16), (7, torch.float32), (7, torch.bfloat16)):
            states = torch.randn(num_rows, 3 * SIZE, generator=source).to(dtype)
            bias = torch.randn(37, generator=source)
            got, exact = _product(states, weight, kind, None, bias).float(), states.float() @ want.T + bias
            if not (got - exact).abs().max() <= max(torch.finfo(dtype).eps, 1e-5) * exact.abs().max():
                return False
    return True


def _plainly(blocks: Tensor, kind: str) -> Tensor:
    """The weights of blocks (B, bytes) as (B, 32), by torch."""
    if kind == "I8":
        return blocks.view(torch.int8).float()
    scale = blocks[:, :2].view(torch.float16).float()
    if kind == "Q8_0":
        return scale * blocks[:, 2:].view(torch.int8)
    least = blocks[:, 2:4].view(torch.float16).float() if kind == "Q4_1" else -8 * scale
    nibbles = blocks[:, -16:]
    return scale * torch.cat([nibbles & 15, nibbles >> 4], 1) + least
