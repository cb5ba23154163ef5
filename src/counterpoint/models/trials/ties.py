"""Choices among what has been read, by scores of which some are equal.

A model that attends to the best few keys of an index is settled only where no key at the edge has an equal: padding, a
cache or a longer text turn such a choice, and with it all that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, slots=True)
class Choice:
    """One call of `topk`.

    Args:
        num: how many there were to choose from.
        chosen: how many were chosen.
        is_tied: the last one chosen has an equal that was not.
    """

    num: int
    chosen: int
    is_tied: bool


def settled_len(read: Callable[[int], object], marks: Sequence[int], longest: int) -> int | None:
    """The largest of `marks` up to which no text leaves anything out by a choice; 0 for none.

    None where nothing that was read is ever chosen from equals.

    Args:
        read: reads several texts of a length, without a cache.
        longest: the length at which choices are looked at.
    """
    every = _choices(read, longest)
    shorter = _choices(read, longest - 1)
    if not any(choice.is_tied for choice in _among_texts(every, shorter)):
        return None
    for mark in sorted(marks, reverse=True):
        here = _choices(read, mark)
        if mark < longest and all(choice.chosen >= choice.num for choice in _among_texts(here, every)):
            return mark
    return 0


def _among_texts(choices: list[Choice], others: list[Choice]) -> list[Choice]:
    """The choices among parts of the text: their number depends on its length, which is another one for `others`."""
    if len(choices) == len(others):
        return [one for one, other in zip(choices, others) if one.num != other.num]
    known = {other.num for other in others}
    return [one for one in choices if one.num not in known]


def _choices(read: Callable[[int], object], length: int) -> list[Choice]:
    with _Watch() as watch:
        read(length)
    return watch.choices


class _Watch(TorchDispatchMode):
    """While this is on, choices are noted down."""

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[Choice] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.topk.default:
            self._note(*args[:2], **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _note(self, scores: torch.Tensor, k: int, dim: int = -1, *_: object, **__: object) -> None:
        num = scores.shape[dim]
        is_tied = False
        if k < num and scores.is_floating_point():
            best = scores.movedim(dim, -1).topk(k + 1).values
            last, next_one = best[..., -2], best[..., -1]
            # What a mask has ruled out is at -inf, or at the least number there is.
            is_tied = bool(((last == next_one) & (last > torch.finfo(scores.dtype).min / 2)).any())
        self.choices.append(Choice(num, k, is_tied))
