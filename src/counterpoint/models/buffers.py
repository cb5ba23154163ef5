"""Where rows of an attention model keep their keys and values: a slot for each row in buffers that all layers lay alike."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

BLOCK = 256  # tokens by which the buffers grow
LEAST_SLOTS = 2


class Place:
    """Where the forward in progress reads and writes; shared by all layers."""

    slots: slice | Tensor  # of the rows fed
    index: Tensor  # (R, 1)
    write: Tensor  # (R, Q) positions to write at
    reach: int  # keys are read from position 0 to here

    def aim(self, slots: Sequence[int], write: Tensor, reach: int) -> None:
        """Point at these slots, in rising order."""
        self.index = torch.tensor(slots, device=write.device)[:, None]
        # One run of slots is read in place; any other choice of rows is gathered.
        is_run = slots[-1] - slots[0] + 1 == len(slots)
        self.slots = slice(slots[0], slots[-1] + 1) if is_run else self.index[:, 0]
        self.write, self.reach = write, reach


class Layer(CacheLayerMixin):
    """The buffers of one layer, which a forward writes to and reads where `place` says."""

    is_compileable = True  # spares the mask shortcuts that assume rows of one length
    is_sliding = False

    def __init__(self, place: Place, num_slots: int, capacity: int) -> None:
        super().__init__()
        self.place, self.num_slots, self.capacity = place, num_slots, capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: Tensor) -> Tensor:
        # One position more than the capacity takes the writes of padding.
        return zeros((self.num_slots, states.shape[1], self.capacity + 1, states.shape[3]), states)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.place
        self.keys[place.index, :, place.write] = key_states.transpose(1, 2)  # (R, Q, H, D)
        self.values[place.index, :, place.write] = value_states.transpose(1, 2)
        return self.keys[place.slots, :, : place.reach], self.values[place.slots, :, : place.reach]

    def resize(self, num_slots: int, capacity: int, length: int) -> None:
        self.num_slots, self.capacity = num_slots, capacity
        if self.is_initialized:
            self.keys, self.values = self._resized(self.keys, length), self._resized(self.values, length)

    def _resized(self, old: Tensor, length: int) -> Tensor:
        new = self._buffer(old)
        slots = min(len(old), len(new))
        new[:slots, :, :length] = old[:slots, :, :length]
        return new

    def copy(self, source: int, target: int, length: int) -> None:
        if self.is_initialized:
            for buffer in (self.keys, self.values):
                buffer[target, :, :length] = buffer[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.place.reach, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.capacity


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Views:
    """Of each layer, (R, H, N, D) of the keys and of the values; None where it has none of its own."""

    keys: list[Tensor | None]
    values: list[Tensor | None]

    @property
    def num_positions(self) -> int:
        """N"""
        return next(keys for keys in self.keys if keys is not None).shape[2]


class Buffers:
    """The slots of all layers."""

    def __init__(self, num_layers: int) -> None:
        self.place = Place()
        self.num_slots, self.capacity = LEAST_SLOTS, BLOCK
        self.layers = [Layer(self.place, self.num_slots, self.capacity) for _ in range(num_layers)]
        self._views: dict[tuple[int, int], Views] = {}

    @property
    def is_initialized(self) -> bool:
        """Whether anything has been written."""
        return any(layer.is_initialized for layer in self.layers)

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values."""
        buffers = [b for layer in self.layers if layer.is_initialized for b in (layer.keys, layer.values)]
        return sum(b.numel() * b.element_size() for b in buffers)

    def resize(self, num_slots: int, capacity: int, length: int) -> None:
        """Make room for so many slots of so many tokens; the first `length` of each slot are kept."""
        for layer in self.layers:
            layer.resize(num_slots, capacity, length)
        self.num_slots, self.capacity = num_slots, capacity
        self._views = {}

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a slot to another."""
        for layer in self.layers:
            layer.copy(source, target, length)

    def clear(self) -> None:
        """Zeros everywhere: what takes no part in a sum must be a number still."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys.zero_()
                layer.values.zero_()

    def views(self, num_slots: int, num_positions: int) -> Views:
        """Of the first slots and positions; the same object until the buffers move."""
        found = self._views.get((num_slots, num_positions))
        if found is None:
            cut = [
                (layer.keys[:num_slots, :, :num_positions], layer.values[:num_slots, :, :num_positions])
                if layer.is_initialized
                else (None, None)
                for layer in self.layers
            ]
            found = self._views[num_slots, num_positions] = Views([k for k, _ in cut], [v for _, v in cut])
        return found


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the dtype and on the device of `like`. On the CPU they take memory, and time, where they are written."""
    if like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
        with torch.inference_mode(False):  # they may outlive the mode
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
    num_bytes = math.prod(shape) * like.element_size()
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)
