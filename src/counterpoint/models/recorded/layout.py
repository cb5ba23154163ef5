"""Where the numbers of one token lie, found from the tensors of two traces with different numbers of rows.

A tensor of a trace has one dimension that grows with the rows. Its storage is one block a row, so the offset and the
strides within a block are those of every token.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


class NotRecordable(Exception):
    """The forward does something that a program can't; the text says what."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Of one token: the place of the first number, and size and stride of each dimension but that of the rows."""

    at: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


def storage_of(tensor: Tensor) -> int:
    """The same for all views of the same memory."""
    return tensor.untyped_storage()._cdata


def block_len(first: Tensor, second: Tensor, num_rows: tuple[int, int]) -> int:
    """Numbers of one row in the storages of the same tensor in both traces."""
    lengths = [
        divmod(x.untyped_storage().nbytes() // x.element_size(), rows) for x, rows in zip((first, second), num_rows)
    ]
    if lengths[0] != lengths[1] or lengths[0][1]:
        raise NotRecordable(f"a tensor {tuple(first.shape)} mixes the rows, as a choice of experts does")
    return lengths[0][0]


def rows_dim(first: Tensor, second: Tensor, num_rows: tuple[int, int]) -> int | None:
    """The dimension that grows with the rows; None where none does."""
    if first.dim() != second.dim():
        raise NotRecordable("tensors have other dimensions with more rows")
    grown = [i for i, (a, b) in enumerate(zip(first.shape, second.shape)) if a != b]
    if not grown:
        return None
    (i, *others) = grown
    if others or first.shape[i] % num_rows[0] or first.shape[i] // num_rows[0] * num_rows[1] != second.shape[i]:
        raise NotRecordable(f"a tensor {tuple(first.shape)} grows otherwise than with the rows")
    return i


def token_layout(tensor: Tensor, dim: int, num_rows: int, block: int) -> Layout:
    """What a tensor is for one token.

    Args:
        dim: that of the rows, of which there are `num_rows`, or as many times a whole number.
        block: numbers of one row in the storage.
    """
    sizes, strides = list(tensor.shape), list(tensor.stride())
    each = sizes[dim] // num_rows
    if strides[dim] * each != block and not (each == 1 and strides[dim] == block):
        raise NotRecordable(f"rows of a tensor {tuple(tensor.shape)} lie {strides[dim]} numbers apart, not {block}")
    # What rows are joined with goes on as a dimension of the token's own.
    sizes[dim], strides[dim] = each, strides[dim] if each > 1 else 0
    if tensor.storage_offset() >= max(block, 1):
        raise NotRecordable("a tensor leaves rows out")
    return Layout(tensor.storage_offset(), tuple(sizes), tuple(strides))


def collapsed(layouts: list[Layout], most: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The sizes that layouts have in common, and the strides of each, with as few dimensions as they allow.

    Raises:
        NotRecordable: these are more than `most`.
    """
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in layouts]
    for i, size in enumerate(layouts[0].sizes):
        if size == 1:
            continue
        own = [layout.strides[i] for layout in layouts]
        if sizes and all(before[-1] == stride * size for before, stride in zip(strides, own)):
            sizes[-1] *= size
            for before, stride in zip(strides, own):
                before[-1] = stride
            continue
        sizes.append(size)
        for before, stride in zip(strides, own):
            before.append(stride)
    if not sizes:
        return (1,), [(1,)] * len(layouts)
    if len(sizes) > most:
        raise NotRecordable(f"an operation has {len(sizes)} dimensions, more than {most}")
    return tuple(sizes), [tuple(own) for own in strides]
