"""The texts of a trial, and the model's own predictions after them, with which everything else is compared."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.models.close import is_close, is_within
from counterpoint.models.devices import input_device
from counterpoint.models.ids import num_ids
from counterpoint.models.traces import Traces, traces_of, unchanged

TokenIds = tuple[int, ...]

#: share of the largest logit by which two ways of computing may differ on a twin, in float32. A wrong position or mask
#: differs by a hundred times more.
TWIN_TOLERANCE = 1e-4

SEVERAL = 6  # texts


class Texts:
    """Two texts of a model's token ids, and the model's own predictions, each from a forward of its own without a cache.

    Args:
        longest: tokens of each text.
        is_twin: the model is a twin in float32.
    """

    def __init__(self, model: PreTrainedModel, longest: int, *, is_twin: bool) -> None:
        self.model, self._is_twin = model, is_twin
        self._ids = ids = plain_ids(model)
        self.long = tuple(ids[(7 * at * at + 3 * at + 1) % len(ids)] for at in range(longest))
        self.short = tuple(ids[(5 * at * at + 11 * at + 2) % len(ids)] for at in range(longest))
        takes = inspect.signature(model.forward).parameters
        self._uncached = {"use_cache": False} if "use_cache" in takes else {}
        self._num_ids = num_ids(model)
        self._known: dict[TokenIds, Tensor] = {}
        self._along: dict[TokenIds, Tensor] = {}
        self.marks: list[int] = []  # lengths at which something may begin to act
        self.traces = Traces()
        self._places: list = []

    def find_traces(self, read: Callable[[], object]) -> None:
        """Find the state that `read` leaves on the modules. It has to read texts that are as long as any."""
        self.set_traces(traces_of(self.model, read))

    def shorten(self, longest: int) -> None:
        """Cut the texts to what the model can read."""
        self.long, self.short = self.long[:longest], self.short[:longest]

    def read(self, ids: TokenIds) -> None:
        """Read a text without a cache, and with one where the model has one that fits it."""
        self._forward(ids)
        with contextlib.suppress(Exception):  # whether it fits is another trial's to find
            self.model(input_ids=torch.tensor([ids], device=input_device(self.model)))

    def read_several(self, length: int) -> None:
        """Read several texts of this length together, without a cache."""
        count = len(self._ids)
        rows = [
            [self._ids[(a * at * at + 3 * at + a) % count] for at in range(length)] for a in range(1, 2 * SEVERAL, 2)
        ]
        self.model(input_ids=torch.tensor(rows, device=input_device(self.model)), **self._uncached)

    def set_traces(self, traces: Traces) -> None:
        """Tell which attributes a forward changes on the modules, so that each is put back after a forward."""
        self.traces = traces
        self._places = traces.places(self.model)

    def after(self, ids: TokenIds) -> Tensor:
        """Logits (V,) of the token that follows."""
        if ids not in self._known:
            self._known[ids] = self._forward(ids)[-1]
        return self._known[ids]

    def along(self, ids: TokenIds, lengths: Iterable[int]) -> list[Tensor]:
        """Logits (V,) after these lengths of a text, from one forward of the whole."""
        if ids not in self._along:
            self._along[ids] = self._forward(ids)
        return [self._along[ids][length - 1] for length in lengths]

    def agrees(self, got: Tensor, ids: TokenIds, *, of: TokenIds | None = None) -> bool:
        """Whether these are the logits after a text, apart from rounding.

        Args:
            of: a text that begins with this one. What one forward predicts after this one does as well, where it reads that
                text as far as nothing begins to act.
        """
        if of is not None and ids not in self._known:
            read = of[: min((mark for mark in self.marks if mark >= len(ids)), default=len(of))]
            if self.alike(got, self.along(read, [len(ids)])[0]):
                return True
        return self.alike(got, self.after(ids))

    def swapped(self) -> Texts:
        """The same texts, each in the other's place."""
        other = copy.copy(self)
        other.long, other.short = self.short, self.long
        return other

    def alike(self, got: Tensor, want: Tensor) -> bool:
        got = got[: len(want)]
        return is_within(got, want, TWIN_TOLERANCE) if self._is_twin else is_close(got, want)

    def unchanged(self) -> contextlib.AbstractContextManager[None]:
        """Put the modules back afterwards to the state that they are in now."""
        return unchanged(self._places)

    def _forward(self, ids: TokenIds) -> Tensor:
        with self.unchanged():
            out = self.model(input_ids=torch.tensor([ids], device=input_device(self.model)), **self._uncached)
        logits = out.logits
        if logits.dim() != 3 or logits.shape[:2] != (1, len(ids)):
            raise ValueError(f"logits are of shape {tuple(logits.shape)} for {len(ids)} tokens")
        return logits[0, :, : self._num_ids]


def plain_ids(model: PreTrainedModel) -> list[int]:
    """Token ids that have no part of their own in the model: padding, ends, pictures."""
    special: set[int] = set()
    for config in (model.config, model.config.get_text_config(), model.generation_config):
        for name, value in vars(config).items() if config is not None else ():
            if re.search(r"(_id|_ids|_index)$", name):
                special |= {
                    one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, int)
                }
    count = num_ids(model)
    plain = [token_id for token_id in range(min(count, 1000)) if token_id not in special]
    return plain or list(range(count))
