"""Rows of an attention model in shared buffers: one forward for rows of any lengths.

Each row writes its keys and values at its own positions of a slot, and attends under a mask of its own, so there is
no padding between tokens and positions are right on every architecture. Slots in use stay side by side, so that a
forward of neighbouring rows reads a view of the buffers, not a copy. transformers' own caches grow all rows together
and can't do this.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from counterpoint.models.attention import FewQueries
from counterpoint.models.buffers import BLOCK, Buffers
from counterpoint.models.caches import cache_argument
from counterpoint.models.devices import input_device
from counterpoint.models.fixed import MOST_COLUMNS, FixedSteps, Shape
from counterpoint.models.ids import num_ids
from counterpoint.models.inputs import opening, placed
from counterpoint.models.linears import Linears
from counterpoint.models.masks import KeptMasks, mask_rules, masks_in_memory, ragged_masks
from counterpoint.models.packed import Packed, pack
from counterpoint.models.recorded.steps import RecordedSteps
from counterpoint.models.rows import Feed, Rows, Snapshot
from counterpoint.models.traces import OwnState


class RaggedRows(Rows):
    """Rows of an attention model, all in one forward.

    Args:
        model: a causal model that takes `position_ids` and four-dimensional masks; `counterpoint.models.trials`
            finds out whether one does.
        fixed: steps of a few tokens a row go through these where their shape suits; None is never.
        linears, attention: the kernels of the other steps; None is torch's own.
        recorded: forwards of few tokens are one call of these where they can be recorded; None is never.
        new_state: room for what prompts with pictures leave on the modules; None where there will be none.
    """

    can_crop = True
    is_joint = True

    def __init__(
        self,
        model: PreTrainedModel,
        fixed: FixedSteps | None = None,
        linears: Linears | None = None,
        attention: FewQueries | None = None,
        recorded: RecordedSteps | None = None,
        new_state: Callable[[], OwnState] | None = None,
    ) -> None:
        self._model, self._fixed, self._recorded = model, fixed, recorded
        self._rules = mask_rules(model)
        self._kept_masks = KeptMasks(self._rules)
        self._cache_name = cache_argument(model.forward)
        self._linears = Linears(model) if linears is None else linears
        self._attention = FewQueries(model) if attention is None else attention
        config = model.config.get_text_config()
        self._additive = model.dtype if config._attn_implementation == "eager" else None  # masks are such numbers
        self._device, self._num_ids = input_device(model), num_ids(model)
        self._num_layers = config.num_hidden_layers
        self._buffers = Buffers(self._num_layers)  # until the first row
        self._slots: list[int] = []  # handle of the row in each slot
        self._slot_of: dict[int, int] = {}
        self._length: dict[int, int] = {}
        self._offset: dict[int, int] = {}  # of rows that began with pictures, see `Opening`
        self._new_state = new_state
        self._next = 0
        self._expected = (0, 0)
        # Of the last two steps that suit compiling and were not compiled: the process may have been held up in one.
        self._steps_s: tuple[float, ...] = ()

    def _begin(self) -> None:
        """Take buffers."""
        new_buffers = Buffers if self._fixed is None else self._fixed.new_buffers
        self._buffers = new_buffers(self._num_layers)
        self._cache = Cache(layers=self._buffers.layers)
        self._described: array[int] | None = None  # as recorded steps take them

    def _end(self) -> None:
        """Give buffers back in which there is no row any more."""
        if self._fixed is not None:
            self._fixed.give_back(self._buffers)
        self._buffers = Buffers(self._num_layers)

    @property
    def num_rows(self) -> int:
        return len(self._slots)

    @property
    def most_alike(self) -> int:
        """The most rows that our kernels take. They add up each row in one order, so other rows change no bit of it."""
        return self._linears.most_alike if self._attention.is_by_kernel else 1

    @property
    def num_bytes(self) -> int:
        """Memory of the key and value buffers."""
        return self._buffers.num_bytes

    def add(self) -> int:
        if not self._slots:
            self._begin()
        row, self._next = self._next, self._next + 1
        self._slot_of[row] = len(self._slots)
        self._slots.append(row)
        self._length[row] = 0
        if len(self._slots) > self._buffers.num_slots:
            self._resize(max(len(self._slots), self._buffers.num_slots * 2), self._buffers.capacity)
        return row

    def fork(self, row: int, length: int | None = None) -> int:
        length = self._length[row] if length is None else length
        new = self.add()
        self._buffers.copy(self._slot_of[row], self._slot_of[new], length)
        self._length[new] = length
        if row in self._offset:
            self._offset[new] = self._offset[row]
        return new

    def snapshot(self, row: int, length: int) -> Snapshot | None:
        slot = self._slot_of[row]
        return [
            (layer.keys[slot, :, :length].clone(), layer.values[slot, :, :length].clone())
            if layer.is_initialized
            else None
            for layer in self._buffers.layers
        ]

    def add_from(self, snapshot: Snapshot, length: int) -> int:
        row = self.add()
        self._put(row, snapshot, length)
        return row

    def _put(self, row: int, snapshot: Snapshot, length: int) -> None:
        if length > self._buffers.capacity:
            self._resize(self._buffers.num_slots, -(-length // BLOCK) * BLOCK)
        for layer, states in zip(self._buffers.layers, snapshot):
            if states is None:
                continue
            keys, values = states
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[self._slot_of[row], :, :length] = keys[:, :length]
            layer.values[self._slot_of[row], :, :length] = values[:, :length]
        self._length[row] = length

    def expect(self, num_steps: int, num_rounds: int) -> None:
        self._expected = (num_steps, num_rounds)

    def crop(self, row: int, length: int) -> None:
        self._length[row] = min(self._length[row], length)

    def free(self, row: int) -> None:
        slot, last = self._slot_of.pop(row), self._slots[-1]
        del self._length[row]
        self._offset.pop(row, None)
        if last != row:
            self._buffers.copy(len(self._slots) - 1, slot, self._length[last])
            self._slots[slot], self._slot_of[last] = last, slot
        self._slots.pop()
        if not self._slots:
            self._end()

    def length(self, row: int) -> int:
        return self._length[row]

    def _resize(self, num_slots: int, capacity: int) -> None:
        if (num_slots, capacity) != (self._buffers.num_slots, self._buffers.capacity):
            self._buffers.resize(num_slots, capacity, max(self._length.values(), default=0))
            self._described = None

    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.forward(feeds)
        return self._read(feeds) if all(feed.inputs is None for feed in feeds) else self._open(feeds)

    def _open(self, feeds: Sequence[Feed]) -> Tensor:
        """Prompts with pictures are read one by one, all else together. No row changes where one of them fails."""
        assert self._new_state is not None  # whoever makes rows for prompts with pictures gives it
        state, given = self._new_state(), {feed.row: feed.inputs for feed in feeds if feed.inputs is not None}
        made = {row: opening(self._model, placed(self._model, one.values), state) for row, one in given.items()}
        rest = [feed for feed in feeds if feed.row not in made]
        read = iter(self._read(rest) if rest else ())
        for row, one in made.items():
            self._put(row, one.states, len(given[row].ids))
            self._offset[row] = one.offset
        wanted = [made[feed.row].logits if feed.row in made else next(read) for feed in feeds for _ in feed.columns]
        return torch.stack([one[: self._num_ids] for one in wanted]) if wanted else torch.empty((0, self._num_ids))

    def _read(self, feeds: Sequence[Feed]) -> Tensor:
        slots = [self._slot_of[feed.row] for feed in feeds]
        width = max([len(feed.ids) for feed in feeds])
        reach = max([self._length[feed.row] + len(feed.ids) for feed in feeds])
        if reach > self._buffers.capacity:
            self._resize(self._buffers.num_slots, -(-reach // BLOCK) * BLOCK)
        began, by_record = None, self._suits_recorded(feeds, width)
        fixed = self._fixed
        if fixed is not None and (not by_record or fixed.always) and self._suits_fixed(fixed, feeds, slots):
            shape = self._fixed_shape(fixed, max(slots) + 1, width)
            if self._pays_fixed(fixed, shape):
                return self._fixed_step(fixed, shape, feeds, slots)
            began = time.perf_counter()
        used = sorted(slots)
        line_of = {slot: line for line, slot in enumerate(used)}
        packed = pack(
            feeds,
            [line_of[slot] for slot in slots],
            [self._length[self._slots[slot]] for slot in used],
            offsets=[self._offset.get(self._slots[slot], 0) for slot in used] if self._offset else None,
            width=width,
            spare=self._buffers.capacity,
            device=self._device,
        )
        logits = self._by_record(packed, used, reach) if by_record else self._by_model(packed, used, reach)
        if began is not None:
            self._steps_s = (*self._steps_s[-1:], time.perf_counter() - began)
        self._advance(feeds)
        return logits

    def _advance(self, feeds: Sequence[Feed]) -> None:
        for feed in feeds:
            self._length[feed.row] += len(feed.ids) - feed.scratch

    def _suits_recorded(self, feeds: Sequence[Feed], width: int) -> bool:
        """Whether a forward of this shape is one call of a program, which is recorded here where there is none yet."""
        steps, num_wanted = self._recorded, sum([len(feed.columns) for feed in feeds])
        if steps is None or not steps.usable or not self._attention.is_by_kernel:
            return False
        if not steps.suits(len(feeds), width, num_wanted):
            return False
        if self._described is None:
            kinds = list(self._rules) if isinstance(self._rules, dict) else None
            if not steps.prepare(self._linears, self._attention, self._buffers.layers, kinds):
                return False
            return steps.suits(len(feeds), width, num_wanted)  # known once there is a program
        return True

    @property
    def not_recorded(self) -> str | None:
        """Why forwards of few tokens are not recorded, known once there was one; None where they are."""
        if self._fixed is not None and self._fixed.records:
            return None
        if self._recorded is None:
            return "compile is False, or it has adapters"
        if self._recorded.refused is not None:
            return self._recorded.refused
        if not self._attention.is_by_kernel:
            return "it does not attend by our kernel"
        return None if self._recorded.usable else "hooks look into its forward, or it has adapters"

    def _by_record(self, packed: Packed, slots: list[int], reach: int) -> Tensor:
        recorded = self._recorded
        assert recorded is not None  # `_suits_recorded` has seen it
        if self._described is None:
            self._described = recorded.described(self._buffers.layers)
        logits = recorded.run(
            packed,
            slots,
            self._described,
            masks_in_memory(self._rules, self._kept_masks, packed, reach, self._buffers.capacity, recorded.kinds),
            reach,
            eager=lambda: self._by_model(packed, slots, reach, cut=False),
        )
        return logits if logits.shape[1] == self._num_ids else logits[:, : self._num_ids]

    def _suits_fixed(self, fixed: FixedSteps, feeds: Sequence[Feed], slots: list[int]) -> bool:
        """Whether rows that have been begun get few tokens, all of them asked for, and few slots are left out."""
        return (
            self._buffers.is_initialized
            and all(len(feed.columns) == len(feed.ids) <= MOST_COLUMNS for feed in feeds)
            and all(self._length[feed.row] for feed in feeds)
            and max(slots) < 2 * len(feeds)
            and fixed.usable
        )

    def _fixed_shape(self, fixed: FixedSteps, num_slots: int, width: int) -> Shape:
        num_rows, num_columns = fixed.num_rows(num_slots), fixed.num_columns(width)
        reach = max(self._length[row] for row in self._slots[:num_rows]) + num_columns
        return num_rows, num_columns, fixed.num_positions(reach)

    def _pays_fixed(self, fixed: FixedSteps, shape: Shape) -> bool:
        num_steps, num_rounds = self._expected
        left = shape[2] - max(self._length.values())  # then the next shape begins
        step_s = min(self._steps_s) if len(self._steps_s) == 2 else None
        return fixed.pays(*shape, num_steps=min(num_steps, left) * num_rounds, step_s=step_s)

    def _fixed_step(self, fixed: FixedSteps, shape: Shape, feeds: Sequence[Feed], slots: list[int]) -> Tensor:
        num_rows, num_columns, num_positions = shape
        lengths = [self._length[row] for row in self._slots[:num_rows]]
        if num_rows > self._buffers.num_slots or num_positions > self._buffers.capacity:
            self._resize(max(num_rows, self._buffers.num_slots), max(num_positions, self._buffers.capacity))
        offsets = [self._offset.get(row, 0) for row in self._slots[:num_rows]]
        lengths, offsets = ([*some, *[0] * (num_rows - len(some))] for some in (lengths, offsets))
        packed = pack(feeds, slots, lengths, offsets=offsets, width=num_columns, spare=None, device=self._device)
        logits = fixed.run(
            packed,
            lambda places: ragged_masks(self._rules, places, num_positions, self._additive),
            self._buffers.views(num_rows, num_positions),
            eager=lambda: self._by_model(packed.all_wanted(), list(range(num_rows)), num_positions, cut=False),
        )
        logits = logits.view(num_rows, num_columns, -1)[..., : self._num_ids]
        self._advance(feeds)
        if num_columns == 1 and packed.lines == list(range(len(feeds))):
            return logits[: len(feeds), 0]
        return logits[packed.lines, packed.columns]

    def _by_model(self, packed: Packed, slots: list[int], reach: int, *, cut: bool = True) -> Tensor:
        self._buffers.place.aim(slots, packed.writes, reach)
        return self._call(packed, reach, cut=cut)

    def _call(self, packed: Packed, reach: int, *, cut: bool) -> Tensor:
        """The wanted predictions, (M, V); not `cut`, with what the head predicts past the ids that can be read."""
        wanted = packed.wanted

        def only_wanted(_module, args):  # (R, Q, hidden) -> (1, M, hidden): never (R, Q, V) logits
            return (args[0][wanted[0], wanted[1]].unsqueeze(0), *args[1:])

        hook = self._model.get_output_embeddings().register_forward_pre_hook(only_wanted)
        try:
            with self._linears.joint(), self._attention.joint(packed.ids.shape[1]):
                logits = self._model(
                    input_ids=packed.ids,
                    position_ids=packed.positions,
                    attention_mask=ragged_masks(self._rules, packed.places, reach, self._additive),
                    use_cache=True,
                    **{self._cache_name: self._cache},
                ).logits[0]
        finally:
            hook.remove()
        return logits[:, : self._num_ids] if cut else logits
