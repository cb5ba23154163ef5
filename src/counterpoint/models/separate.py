"""Rows that keep transformers' own cache each and go through the model one after the other.

For models whose state can't be shared in ragged buffers: recurrent ones (Mamba, RWKV, hybrids), and attention models
that derive positions from a padding mask (BLOOM). Exact everywhere; a forward for each row is its price.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.errors import UnsupportedError
from counterpoint.models.caches import CACHE_NAMES, cache_argument, cache_of
from counterpoint.models.linears import Linears
from counterpoint.models.rows import Feed, Rows


@dataclass(slots=True)
class _State:
    cache: Any = None
    length: int = 0
    ids: list[int] = field(default_factory=list)  # only where the model hands no cache out


class SeparateRows(Rows):
    """One cache a row, one forward a row.

    Args:
        model: any causal model of transformers that returns its cache.
        linears: the kernels of its linear layers; None is torch's own.

    Raises:
        UnsupportedError: the model has no cache that it takes back.
    """

    is_joint = False

    def __init__(self, model: PreTrainedModel, linears: Linears | None = None) -> None:
        self._model = model
        self._linears = Linears(model) if linears is None else linears
        takes = inspect.signature(model.forward).parameters
        name = cache_argument(model.forward)
        if name is None:
            raise UnsupportedError(
                f"{type(model).__name__} takes none of {', '.join(CACHE_NAMES)}, so it can't continue a text; "
                "use a model that keeps a cache"
            )
        self._cache_name = name
        self._takes_positions = "position_ids" in takes  # Bamba counts from 0 at each forward without them
        self.can_crop = not getattr(model, "_is_stateful", False)
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
        self._rows[new] = copy.deepcopy(self._rows[row])
        if length is not None:
            self.crop(new, length)
        return new

    def crop(self, row: int, length: int) -> None:
        state = self._rows[row]
        surplus = state.length - length
        if surplus <= 0:
            return
        if not self.can_crop:
            raise UnsupportedError(f"{type(self._model).__name__} keeps a state that can't be rolled back")
        state.cache.crop(-surplus)
        state.length = length

    def free(self, row: int) -> None:
        del self._rows[row]

    def length(self, row: int) -> int:
        return self._rows[row].length

    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        return torch.cat([self._one(feed) for feed in feeds])

    def _one(self, feed: Feed) -> Tensor:
        state, ids = self._rows[feed.row], list(feed.ids)
        if feed.scratch and not self.can_crop:
            raise UnsupportedError(f"{type(self._model).__name__} keeps a state that can't be rolled back")
        wanted = [c % len(ids) for c in feed.columns]
        if state.length and not self.can_crop:  # a state moves on by one token at a time
            parts = [self._call(state, [token_id], [0] if at in wanted else []) for at, token_id in enumerate(ids)]
            logits = torch.cat(parts)[[sorted(wanted).index(c) for c in wanted]]
        else:
            logits = self._call(state, ids, wanted)
        if feed.scratch:
            self.crop(feed.row, state.length - feed.scratch)
        return logits

    def _call(self, state: _State, ids: list[int], wanted: list[int]) -> Tensor:
        """Append `ids` to a row. -> (M, V), after those of `ids` that are `wanted`."""
        arguments: dict[str, Any] = {self._cache_name: state.cache, "use_cache": not state.ids}
        ids_read = [*state.ids, *ids]
        if self._takes_positions:
            end = state.length + len(ids)
            arguments["position_ids"] = torch.arange(end - len(ids_read), end, device=self._model.device)[None]
        at = [len(ids_read) - len(ids) + c for c in wanted]
        with self._only(at), self._linears.joint():
            out = self._model(input_ids=torch.tensor([ids_read], device=self._model.device), **arguments)
        state.cache = cache_of(out, self._cache_name)
        state.length += len(ids)
        if state.cache is None:  # the state lives inside the model, one for all rows: read everything anew
            state.ids = ids_read
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
