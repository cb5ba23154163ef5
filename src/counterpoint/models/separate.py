"""Rows that keep transformers' own cache each and go through the model one after the other.

For models whose state can't be shared in ragged buffers: recurrent ones (Mamba, RWKV, hybrids), and attention models
that derive positions from a padding mask (BLOOM). A forward for each row is the price. How a model has to be called for
that, and what has to be read anew, is found by trial (`counterpoint.models.trials`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.models.caches import cache_argument, cache_of
from counterpoint.models.devices import input_device
from counterpoint.models.ids import num_ids
from counterpoint.models.inputs import InputHistories, placed
from counterpoint.models.linears import Linears
from counterpoint.models.rows import Feed, Rows
from counterpoint.models.traces import OwnState, Traces, unchanged


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is called row by row, so that it predicts what it predicts without a cache.

    Args:
        positions: it is told the positions of the tokens.
        mask: it is given a mask of ones.
        several: it can read several tokens in one forward after others.
        crops: its cache can be cut back.
        anew_at: row lengths past which what was read no longer holds: a row that gets longer is read anew.
        anew_from: row length past which every forward reads the whole row anew; 0 for every row, None for none.
        traces: what a forward leaves on the modules, which is put back after each.
    """

    positions: bool = True
    mask: bool = False
    several: bool = True
    crops: bool = True
    anew_at: tuple[int, ...] = ()
    anew_from: int | None = None
    traces: Traces = field(default_factory=Traces)

    def caches(self, length: int) -> bool:
        """Whether what a row of this length has read can be kept."""
        return self.anew_from is None or length <= self.anew_from

    def holds(self, shorter: int, longer: int) -> bool:
        """Whether what a row had read at one length still holds at another."""
        return self.caches(longer) and not any(shorter <= length < longer for length in self.anew_at)


@dataclass(slots=True)
class _State:
    cache: Any = None
    num_cached: int = 0  # of `ids`
    ids: list[int] = field(default_factory=list)
    num_opened: int = 0  # of `ids`, where the row began with pictures; then `own` reads them and all after them
    own: InputHistories | None = None

    def fork(self) -> _State:
        own = None if self.own is None else self.own.fork()
        return _State(copy.deepcopy(self.cache), self.num_cached, list(self.ids), self.num_opened, own)

    def forget(self) -> None:
        self.cache, self.num_cached = None, 0


class SeparateRows(Rows):
    """One cache a row, one forward a row.

    Args:
        model: any causal model of transformers.
        linears: the kernels of its linear layers; None is torch's own.
        manner: how it is called.
        new_state: room for what prompts with pictures leave on the modules; None where there will be none.
    """

    is_joint = False

    def __init__(
        self,
        model: PreTrainedModel,
        linears: Linears | None = None,
        *,
        manner: Manner | None = None,
        new_state: Callable[[], OwnState] | None = None,
    ) -> None:
        self._model, self._manner, self._new_state = model, manner or Manner(), new_state
        self._linears = Linears(model) if linears is None else linears
        self._cache_name = cache_argument(model.forward)
        takes = inspect.signature(model.forward).parameters
        # Bamba counts from 0 at each forward without them.
        self._gives_positions = self._manner.positions and "position_ids" in takes
        self._gives_mask = self._manner.mask and "attention_mask" in takes
        self.can_crop = self._manner.crops
        self._num_ids = num_ids(model)
        self._places = self._manner.traces.places(model)
        self.num_failed_crops = 0  # caches that could not be cut back after all
        self._rows: dict[int, _State] = {}
        self._next = 0

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def add(self) -> int:
        row, self._next = self._next, self._next + 1
        self._rows[row] = _State()
        return row

    def fork(self, row: int, length: int | None = None) -> int:
        new = self.add()
        self._rows[new] = self._rows[row].fork()
        if length is not None:
            self.crop(new, length)
        return new

    def crop(self, row: int, length: int) -> None:
        """As in `Rows`; where the cache can't be cut back, the row's next forward reads all of it anew."""
        state = self._rows[row]
        del state.ids[length:]
        if state.own is not None:
            return  # the next forward reads the row from its beginning
        surplus = state.num_cached - length
        if surplus <= 0:
            return
        if not self._manner.crops or length == 0 or not self._manner.holds(length, state.num_cached):
            state.forget()
            return
        try:
            state.cache.crop(-surplus)
            state.num_cached = length
        except Exception:  # a window that has forgotten what came before it raises
            self.num_failed_crops += 1
            state.forget()

    def free(self, row: int) -> None:
        del self._rows[row]

    def length(self, row: int) -> int:
        return len(self._rows[row].ids)

    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        parts = [part for feed in feeds if (part := self._one(feed)) is not None]
        return torch.cat(parts)[:, : self._num_ids] if parts else torch.empty((0, self._num_ids))

    def _one(self, feed: Feed) -> Tensor | None:
        state, ids = self._rows[feed.row], list(feed.ids)
        if feed.inputs is not None or state.own is not None:
            return self._continue_own(state, feed)
        start = len(state.ids)
        wanted = [start + c % len(ids) + 1 for c in feed.columns]  # lengths of the row after which logits are wanted
        state.ids += ids
        try:
            found = self._read(state, start, sorted(set(wanted)))
        except Exception:
            state.forget()  # the row is as it was before
            del state.ids[start:]
            raise
        if feed.scratch:
            self.crop(feed.row, len(state.ids) - feed.scratch)
        return torch.stack([found[length] for length in wanted]) if wanted else None

    def _continue_own(self, state: _State, feed: Feed) -> Tensor | None:
        """Begin with pictures, or go on after them, as the model's own `generate` does."""
        new, own = list(feed.ids), state.own
        if feed.inputs is not None:
            assert self._new_state is not None  # whoever makes rows for prompts with pictures gives it
            own = InputHistories(self._model, placed(self._model, feed.inputs.values), self._new_state())
        assert own is not None
        opened = state.num_opened if feed.inputs is None else len(new)
        ids = [*state.ids, *new]
        lengths = [len(ids)] if feed.inputs is not None else range(len(state.ids) + 1, len(ids) + 1)
        found = {length: own.logits([(0, tuple(ids[opened:length]))])[0] for length in lengths}
        wanted = [len(ids) - len(new) + column % len(new) + 1 for column in feed.columns]
        state.own, state.num_opened = own, opened
        state.ids = ids[: len(ids) - feed.scratch]
        return torch.stack([found[length] for length in wanted]) if wanted else None

    def _read(self, state: _State, start: int, wanted: list[int]) -> dict[int, Tensor]:
        """Read what a row has got, from length `start` on. -> (V,) after each of the `wanted` lengths."""
        found: dict[int, Tensor] = {}
        for end in self._ends(start, len(state.ids)):
            here = [length for length in wanted if start < length <= end]
            if not self._manner.caches(end):
                state.forget()
                found.update({length: self._call(None, state.ids[:length], [-1], 0)[0] for length in here})
            else:
                if state.cache is None or not self._manner.holds(state.num_cached, end):
                    state.forget()
                found.update(self._continue(state, end, here))
            start = end
        return found

    def _ends(self, start: int, stop: int) -> list[int]:
        """Where to stop on the way, so that no forward reads past a length that changes what was read before it."""
        marks = {*self._manner.anew_at, self._manner.anew_from}
        return [*sorted(mark for mark in marks if mark is not None and start < mark < stop), stop]

    def _continue(self, state: _State, end: int, wanted: list[int]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        while state.num_cached < end:
            first = state.num_cached
            upto = first + 1 if first and not self._manner.several else end
            here = [length for length in wanted if first < length <= upto]
            logits = self._call(state, state.ids[first:upto], [length - first - 1 for length in here], first)
            found.update(zip(here, logits))
            state.num_cached = upto
        return found

    def _call(self, state: _State | None, ids: list[int], at: list[int], first: int) -> Tensor:
        """Read ids at positions from `first` on, after what the cache of `state` holds. -> (M, V) `at` those of the ids."""
        device = input_device(self._model)
        arguments: dict[str, Any] = {"use_cache": state is not None}
        if state is not None and self._cache_name is not None:
            arguments[self._cache_name] = state.cache
        if self._gives_positions:
            arguments["position_ids"] = torch.arange(first, first + len(ids), device=device)[None]
        if self._gives_mask:
            arguments["attention_mask"] = torch.ones((1, first + len(ids)), dtype=torch.long, device=device)
        with self._only(at), self._linears.joint(), unchanged(self._places):
            out = self._model(input_ids=torch.tensor([ids], device=device), **arguments)
        if state is not None:
            state.cache = cache_of(out, self._cache_name)
        logits = out.logits[0]
        return logits if len(logits) == len(at) else logits[at]

    @contextlib.contextmanager
    def _only(self, at: list[int]) -> Iterator[None]:
        """While this holds, the head, where there is one, reads these positions alone: never (1, L, V) logits."""
        head = self._model.get_output_embeddings()
        if head is None:
            yield
            return
        hook = head.register_forward_pre_hook(lambda _module, args: (args[0][:, at], *args[1:]))
        try:
            yield
        finally:
            hook.remove()
