"""Where rows of an attention model keep their keys and values: a slot for each row in buffers that all layers lay alike."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


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


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the dtype and on the device of `like`. On the CPU they take memory, and time, where they are written."""
    if like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
        return like.new_zeros(shape)
    num_bytes = math.prod(shape) * like.element_size()
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)
