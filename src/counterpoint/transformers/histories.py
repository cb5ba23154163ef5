"""Logits after token histories, asked for by content: what is cached is found by comparing tokens.

So reordered beams, rolled-back drafts, a second use and rows that happen to be equal need no bookkeeping of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from counterpoint.models.rows import Feed, Rows
from counterpoint.models.trials import abilities_of

TokenIds = tuple[int, ...]

WASTE = 1.5  # tokens with padding over tokens without, from where rows are better read one at a time


class Histories:
    """Token histories that grow, one row of the model for each different one.

    Args:
        rows: empty rows of a model.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._held: dict[TokenIds, int] = {}

    def logits(self, histories: Sequence[TokenIds]) -> Tensor:
        """Logits of the token after each history. R histories -> (R, V), in the model's dtype.

        Rows for histories that are no beginning of these are forgotten.
        """
        return self.last_logits(histories, 1)[:, 0]

    def last_logits(self, histories: Sequence[TokenIds], count: int) -> Tensor:
        """Logits after each of the last `count` tokens of each history. R histories -> (R, count, V)."""
        wanted = list(dict.fromkeys(histories))
        places = {history: place for place, history in enumerate(wanted)}
        feeds = self._prepare(wanted, count)
        lens = [len(feed.ids) for feed in feeds]
        if max(lens) * len(lens) > WASTE * sum(lens):
            logits = torch.cat([self._rows.forward([feed]) for feed in feeds])
        else:
            logits = self._rows.forward(feeds)
        logits = logits.view(len(wanted), count, -1)
        if len(wanted) == len(histories):
            return logits
        return logits[[places[history] for history in histories]]

    def fill(self, cache: Cache, histories: Sequence[TokenIds], width: int) -> None:
        """Put what the model keeps of histories that are beginnings of those last read into an empty cache.

        As transformers has it: rows are padded on the left to `width` tokens, and the padded positions hold zeros.
        """
        held = [next(key for key in self._held if key[: len(history)] == history) for history in histories]
        snapshots = [self._rows.snapshot(self._held[key], len(history)) for key, history in zip(held, histories)]
        for layer, states in enumerate(zip(*snapshots)):
            if None in states:  # the layer reads another one's
                continue
            keys, values = (torch.stack([_left_padded(row, width) for row in side]) for side in zip(*states))
            cache.update(keys, values, layer)

    def _prepare(self, wanted: list[TokenIds], count: int) -> list[Feed]:
        """Bring the rows to the longest known beginnings of `wanted`. Returns what is left to feed, at least `count` tokens."""
        sources = [self._source(history, count) for history in wanted]
        taken: set[TokenIds] = set()
        handles = []
        for source, shared in sources:
            if source is None:
                handles.append(None)
            elif source in taken:
                handles.append(self._rows.fork(self._held[source], shared if shared < len(source) else None))
            else:
                taken.add(source)
                handles.append(self._held[source])
        for source, handle in self._held.items():
            if source not in taken:
                self._rows.free(handle)
        self._held = {}
        feeds = []
        for history, (source, shared), handle in zip(wanted, sources, handles):
            if handle is None:
                handle = self._rows.add()
            elif shared < len(source):
                self._rows.crop(handle, shared)
            self._held[history] = handle
            feeds.append(Feed(handle, history[shared:], columns=range(-count, 0)))
        return feeds

    def _source(self, history: TokenIds, count: int) -> tuple[TokenIds | None, int]:
        """The held history that shares the longest beginning with this one, and how much of it is of use."""
        known = history[:-count]  # the last tokens are always fed, for their logits
        if known in self._held:
            return known, len(known)
        best, most = None, 0
        for held in self._held:
            shared = _shared(held, known)
            if shared > most and (self._rows.can_crop or shared == len(held)):
                best, most = held, shared
        return best, most


def rows_for(model: PreTrainedModel, limit: int | None = None) -> Rows:
    """Rows in one forward where the model can have them, of up to `limit` tokens, else a forward for each."""
    return abilities_of(model).new_rows(limit=limit, keeps_layout=True)


def _left_padded(states: Tensor, width: int) -> Tensor:
    """(H, L, D) -> (H, width, D)."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[1], 0))


def _shared(left: TokenIds, right: TokenIds) -> int:
    for count, (a, b) in enumerate(zip(left, right)):
        if a != b:
            return count
    return min(len(left), len(right))
