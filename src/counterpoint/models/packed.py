"""Tokens of rows of different lengths as one rectangle, which a forward reads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.models.rows import Feed


@dataclass(frozen=True)
class Packed:
    """R lines of Q tokens, and which of the Q x R predictions are wanted.

    Args:
        numbers: 3 x R x Q, the token ids, the positions that the model is told, and the places in their rows to write at. A
            line that has fewer tokens is filled up.
        num_lines, width: R and Q.
        lines, columns: of each wanted prediction, M of each.
        device: of the tensors.
        own_places: R x Q, where in their rows the tokens are; None where these are their positions too.
    """

    numbers: list[int]
    num_lines: int
    width: int
    lines: list[int]
    columns: list[int]
    device: torch.device
    own_places: list[int] | None = None

    @property
    def num_tokens(self) -> int:
        """R x Q"""
        return self.num_lines * self.width

    @functools.cached_property
    def tokens(self) -> Tensor:
        """(3, R, Q); made when it is first asked for."""
        return torch.tensor(self.numbers, device=self.device).view(3, self.num_lines, self.width)

    @property
    def with_places(self) -> Tensor:
        """(4, R, Q) on the host: `numbers` and `place_numbers`."""
        return torch.tensor([*self.numbers, *self.place_numbers]).view(4, self.num_lines, self.width)

    @property
    def ids(self) -> Tensor:
        """(R, Q)"""
        return self.tokens[0]

    @property
    def positions(self) -> Tensor:
        """(R, Q)"""
        return self.tokens[1]

    @property
    def place_numbers(self) -> list[int]:
        """R x Q, where in their rows the tokens are: what masks go by."""
        return self.numbers[self.num_tokens : 2 * self.num_tokens] if self.own_places is None else self.own_places

    @functools.cached_property
    def places(self) -> Tensor:
        """(R, Q), `place_numbers`."""
        if self.own_places is None:
            return self.positions
        return torch.tensor(self.own_places, device=self.device).view(self.num_lines, self.width)

    @property
    def writes(self) -> Tensor:
        """(R, Q)"""
        return self.tokens[2]

    @property
    def wanted(self) -> Tensor:
        """(2, M), lines and columns."""
        return torch.tensor([self.lines, self.columns], dtype=torch.long, device=self.device)

    def all_wanted(self) -> Packed:
        """The same with all predictions wanted, line by line."""
        lines = [line for line in range(self.num_lines) for _ in range(self.width)]
        return dataclasses.replace(self, lines=lines, columns=list(range(self.width)) * self.num_lines)


def pack(
    feeds: Sequence[Feed],
    lines: Sequence[int],
    starts: Sequence[int],
    *,
    offsets: Sequence[int] | None = None,
    width: int,
    spare: int | None,
    device: torch.device,
) -> Packed:
    """Lay feeds out in a rectangle.

    Args:
        lines: of each feed, its line.
        starts: of each of the R lines, how many tokens its row holds.
        offsets: of each line, what is added to a place for the position that the model is told; None is 0 for all.
        width: Q, at least as many tokens as any feed has.
        spare: position that what fills up is written at; None is the ones that come next in its row, where nothing
            has been read yet.
    """
    fed = {line: feed.ids for line, feed in zip(lines, feeds)}
    ids: list[int] = []
    positions: list[int] = []
    writes: list[int] = []
    for line, start in enumerate(starts):
        own = fed.get(line, ())
        end, num_filling = start + len(own), width - len(own)
        filling = [0] * num_filling
        ids += [*own, *filling]
        positions += [*range(start, end), *filling]
        writes += [*range(start, end), *(range(end, end + num_filling) if spare is None else [spare] * num_filling)]
    places = None
    if offsets is not None and any(offsets):
        places, positions = positions, []
        for line, offset in enumerate(offsets):
            own = places[line * width : line * width + len(fed.get(line, ()))]
            positions += [*(place + offset for place in own), *[0] * (width - len(own))]
    return Packed(
        [*ids, *positions, *writes],
        len(starts),
        width,
        [line for line, feed in zip(lines, feeds) for _ in feed.columns],
        [column % len(feed.ids) for feed in feeds for column in feed.columns],
        device,
        places,
    )
