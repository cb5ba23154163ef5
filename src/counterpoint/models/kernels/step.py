"""How step.c is called: a recorded forward of a model, for all tokens of a step, as one call."""

from __future__ import annotations

import ctypes
import functools
import re
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from counterpoint.models.kernels import build

MOST_DIMENSIONS = 4
TOKENS, PRODUCTS, ATTENTION = range(3)  #: what a part of a program is
_NONE = -1


@functools.cache
def operations() -> dict[str, int]:
    """The operations that along.h lists, by name."""
    listed = re.search(r"enum Op \{(.*?)\}", (build.FOLDER / "along.h").read_text(), re.S)
    return {name.strip(): number for number, name in enumerate(listed[1].split(","))}


@dataclass(frozen=True, slots=True)
class Operand:
    """Numbers of a token, or constants.

    Args:
        at: the first of them, among a token's numbers or in `constant`.
        strides: of each dimension of the instruction.
        constant: float32 numbers that all tokens share.
    """

    at: int
    strides: tuple[int, ...]
    constant: Tensor | None = None

    def encoded(self) -> list[int]:
        filling = [0] * (MOST_DIMENSIONS - len(self.strides))
        address = 0 if self.constant is None else self.constant.data_ptr()
        return [address, self.at, *filling, *self.strides]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One operation, on the numbers of a token, or of all for products and attention.

    Args:
        name: of `operations`.
        sizes: at most 4 dimensions. out, inputs: what is written, and up to three that are read.
        rounded: results are rounded to bfloat16. numbers: two at most. more: four whole numbers at most.
    """

    name: str
    sizes: tuple[int, ...] = ()
    out: Operand | None = None
    inputs: tuple[Operand, ...] = ()
    rounded: bool = False
    numbers: tuple[float, ...] = ()
    more: tuple[int, ...] = ()

    def encoded(self) -> list[int]:
        none = [0, _NONE, *[0] * MOST_DIMENSIONS]
        operands = [none if x is None else x.encoded() for x in (self.out, *self.inputs)]
        operands += [none] * (4 - len(operands))
        numbers = [*self.numbers, 0.0, 0.0][:2]
        return [
            operations()[self.name],
            self.rounded,
            *[1] * (MOST_DIMENSIONS - len(self.sizes)),
            *self.sizes,
            *(value for operand in operands for value in operand),
            *(struct.unpack("q", struct.pack("d", number))[0] for number in numbers),
            *(*self.more, 0, 0, 0, 0)[:4],
        ]


@dataclass(slots=True)
class Program:
    """What `run` runs, in memory as C reads it.

    Args:
        parts: (what, first instruction, the one after the last, whether for the wanted tokens alone) of each.
        products: as `products.described` gives them. kept: tensors whose addresses are in here.
        wide, wanted_wide: numbers of a token, and of a wanted one.
    """

    parts: Sequence[tuple[int, int, int, bool]]
    instructions: Sequence[Instruction]
    products: Sequence[ctypes.Array[ctypes.c_int64]]
    wide: int
    wanted_wide: int
    kept: list[Tensor]
    memory: list[array[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.memory = [
            as_array([value for part in self.parts for value in part]),
            as_array([value for one in self.instructions for value in one.encoded()]),
            as_array([value for one in self.products for value in one]),
        ]


def as_array(values: Sequence[int]) -> array[int]:
    """Whole numbers as C reads them. (Not of ctypes, which makes a type for each length.)"""
    return array("q", values)


def address(held: array) -> int:
    """Where its first number lies, while somebody holds it."""
    return held.buffer_info()[0]


def packed_bytes(program: Program, num_tokens: int) -> int:
    """Memory for the states of a product of so many tokens."""
    return max(_library().packed_bytes(one, num_tokens) for one in program.products)


def run(program: Program, values: Sequence[int]) -> None:
    """One forward.

    Args:
        values: the fields of C's `Run` from `layers` on.

    Raises:
        IndexError: an id or a position is in no table of the model's.
        MemoryError: there is none.
    """
    given = as_array([len(program.parts), *map(address, program.memory), *values])
    failed = _library().step(address(given))
    if failed:
        raise (
            IndexError("a token id or a position is in no table of the model")
            if failed == 1
            else MemoryError("no memory")
        )


@functools.cache
def _library() -> ctypes.CDLL:
    library = build.loaded()
    library.step.argtypes, library.step.restype = [ctypes.c_void_p], ctypes.c_int
    library.packed_bytes.argtypes, library.packed_bytes.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_int64
    return library


@build.checked
def is_available() -> bool:
    """Whether this machine has the call. What it computes is compared with each model's own forward."""
    return _library() is not None
