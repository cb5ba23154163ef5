"""Two traces of a forward as a program, which holds for any number of rows and positions: what its tensors are."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from counterpoint.models.kernels.step import MOST_DIMENSIONS, Instruction, Operand
from counterpoint.models.recorded.layout import (
    Layout,
    NotRecordable,
    block_len,
    collapsed,
    rows_dim,
    storage_of,
    token_layout,
)
from counterpoint.models.recorded.trace import Trace

MOST_COMPARED = 2**20  # numbers of a constant
Pair = tuple[Tensor, Tensor]


@dataclass(slots=True)
class Place:
    """A storage whose numbers depend on the tokens.

    Args:
        block: numbers of a token.
        role: "numbers", or what else it is: a mask, or keys or values that a layer keeps, which only attention reads.
        which: the kind of mask or the layer.
    """

    block: int
    role: str = "numbers"
    which: Any = None


@dataclass(slots=True)
class Lowered:
    """A program before its numbers have places in a common arena: `at` of operands are within their storages.

    Args:
        instructions: with the storage of each operand, in the order (out, inputs); None for a constant.
        products: the products, each with the tensors that it reads.
        layers: of each that keeps something, what its keys and values are like.
        head: the instruction from which on only the wanted tokens are computed.
        logits: layout and storage of the result.
    """

    instructions: list[tuple[Instruction, tuple[int | None, ...]]] = field(default_factory=list)
    products: list[ctypes.Array[ctypes.c_int64]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)
    num_heads: int = 0
    logits: tuple[Layout, int] | None = None


class Lowering:
    """What the tensors of two traces are, and the program as far as it is made."""

    def __init__(self, first: Trace, second: Trace) -> None:
        self._first, self._second = first, second
        self._rows = first.num_rows, second.num_rows
        self.made = Lowered(kinds=list(first.masks))
        self._constants: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], Tensor] = {}
        for tensors in ((first.ids, second.ids), (first.positions, second.positions)):
            self._add(tensors)
        for kind, mask in first.masks.items():
            self.made.places[storage_of(mask)] = Place(0, "mask", kind)

    # What a tensor is

    def _add(self, tensors: Pair) -> None:
        self.made.places[storage_of(tensors[0])] = Place(block_len(*tensors, self._rows))

    def _is_live(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self.made.places

    def _layout(self, tensors: Pair) -> Layout:
        """Of a tensor that depends on the tokens."""
        place, dim = self.made.places[storage_of(tensors[0])], rows_dim(*tensors, self._rows)
        if place.role != "numbers" or dim is None:
            raise NotRecordable(f"a {place.role if dim is not None else 'mix of rows'} is computed with")
        return token_layout(tensors[0], dim, self._rows[0], place.block)

    def _operand(self, tensors: Pair, out: Pair) -> tuple[Layout, int | None, Tensor | None]:
        """A tensor as it is read for each number of `out`: where, of which storage, or of which constant."""
        shown = tuple(x.expand(o.shape) for x, o in zip(tensors, out))
        if self._is_live(tensors[0]):
            if rows_dim(*tensors, self._rows) is None:
                raise NotRecordable("rows are mixed")
            return self._layout(shown), storage_of(tensors[0]), None
        own, dim = self._constant(tensors), rows_dim(*out, self._rows)
        wide = own.expand(out[0].shape)
        strides, sizes = list(wide.stride()), list(wide.shape)
        if dim is None or (strides[dim] and sizes[dim] > 1):
            raise NotRecordable("a constant differs from row to row")
        sizes[dim] //= self._rows[0]
        return Layout(0, tuple(sizes), tuple(strides)), None, own

    def _constant(self, tensors: Pair) -> Tensor:
        one, other = tensors
        if one.shape != other.shape or not (one.dtype.is_floating_point or one.dtype in (torch.int64, torch.int32)):
            raise NotRecordable(f"a constant {tuple(one.shape)} of {one.dtype} is computed with")
        if storage_of(one) != storage_of(other) and one.numel() <= MOST_COMPARED and not torch.equal(one, other):
            raise NotRecordable("a constant depends on the tokens")
        key = (storage_of(one), one.storage_offset(), tuple(one.shape), tuple(one.stride()))
        if key not in self._constants:
            self._constants[key] = one.float().contiguous()
            self.made.kept += [one, self._constants[key]]
        return self._constants[key]

    def _scalar(self, value: float) -> Tensor:
        tensor = torch.tensor(float(value))
        self.made.kept.append(tensor)
        return tensor

    # What is made of them

    def _check(self, out: Pair, given: list[Tensor]) -> None:
        is_whole = not out[0].dtype.is_floating_point
        if out[0].dtype in (torch.float16, torch.float64, torch.bool) or (
            is_whole and any(x.dtype.is_floating_point for x in given)
        ):
            raise NotRecordable(f"it computes in {out[0].dtype}")
        self._add(out)

    def _emit(self, name: str, out: Pair, inputs: list[Pair], **more: Any) -> None:
        read = [self._operand(x, out) for x in inputs]
        layouts = [self._layout(out), *(layout for layout, _, _ in read)]
        sizes, strides = collapsed(layouts, MOST_DIMENSIONS)
        self._append(name, sizes, strides, layouts, [storage_of(out[0]), *(s for _, s, _ in read)],
                     [None, *(c for _, _, c in read)], out[0].dtype is torch.bfloat16, **more)  # fmt: skip

    def _append(
        self,
        name: str,
        sizes: tuple[int, ...],
        strides: list[tuple[int, ...]],
        layouts: list[Layout],
        storages: list[int | None],
        constants: list[Tensor | None],
        rounded: bool = False,
        **more: Any,
    ) -> None:
        operands = [Operand(x.at, own, constant) for x, own, constant in zip(layouts, strides, constants)]
        made = Instruction(name, sizes, operands[0], tuple(operands[1:]), rounded=rounded, **more)
        self.made.instructions.append((made, tuple(storages)))
