"""The next token of many texts: what their branches predict weighed together as logits, the best token, and a draw."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from counterpoint.models.kernels import build
from counterpoint.models.kernels.step import address, as_array

LEAST_SHARED = 2**18  #: with fewer numbers than this one thread reads them
KINDS = {torch.float32: 0, torch.bfloat16: 1}


class Weighed:
    """Texts whose branches are weighed together in log space. Only where `is_available`.

    The softmax of a text's scores `l_c + sum_b w_b (l_b - l_c)` is the guided distribution. They are computed where they are
    read, and nothing is written but what is asked for.

    Args:
        rows: of B texts, the logits (V,) of the prompt's branch and of K others, all of one dtype of `KINDS`, on the CPU,
            their numbers side by side.
        weights: of each text, those of the K others.
        margins: of each text, 0 or more; tokens whose logit of the prompt's branch is further below its best are left out.
            Infinite is none.
        allowed: (B, V) of bool; what it leaves out is left out first. None is all.

    Attributes:
        size: V.
        best: of each text the first of its best tokens, or -1 where a branch or the best score is not finite, whose scores
            mean nothing.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Tensor]],
        weights: Sequence[Sequence[float]],
        margins: Sequence[float],
        allowed: Tensor | None = None,
    ) -> None:
        num, self.size = len(rows), len(rows[0][0])
        left = None if allowed is None else allowed.contiguous()
        self._kept = rows, left
        self._addresses = as_array([row.data_ptr() for own in rows for row in own])
        self._weights = array("f", [w for own in weights for w in own])
        self._margins, made = array("f", margins), array("f", bytes(8 * num))
        best, after = as_array([-1] * num), address(made)
        threads = min(num, torch.get_num_threads()) if len(self._addresses) * self.size >= LEAST_SHARED else 1
        self._values = [
            num, len(rows[0]) - 1, self.size, KINDS[rows[0][0].dtype], threads, address(self._addresses),
            address(self._weights), address(self._margins), 0 if left is None else left.data_ptr(),
            address(best), after, after + 4 * num,
        ]  # fmt: skip
        self._made = made, best
        _call("choice_best", self._values)
        self.best = best.tolist()

    def written(self) -> Tensor:
        """(B, V) scores in float32, -inf for what is left out."""
        scores = torch.empty((len(self.best), self.size))
        _call("choice_written", [*self._values, scores.data_ptr()])
        return scores

    def drawn(self, temperatures: Sequence[float], uniform: Sequence[Tensor]) -> list[int]:
        """A token of each text, by the two races of `sampling.draw_rows`. `best` of each is a token.

        Args:
            temperatures: B above 0.
            uniform: of each text, one number for each block and each place in a block, as of `sampling.uniform`.
        """
        wide, numbers = array("f", temperatures), as_array([own.data_ptr() for own in uniform])
        chosen = as_array([-1] * len(self.best))
        _call("choice_drawn", [*self._values, 0, address(wide), address(numbers), address(chosen)])
        return chosen.tolist()


def _call(name: str, values: Sequence[int]) -> None:
    held = as_array(values)
    _calls()[name](address(held))


@functools.cache
def _calls() -> dict[str, Callable[..., None]]:
    calls = {}
    for name in ("choice_best", "choice_written", "choice_drawn"):
        calls[name] = getattr(build.loaded(), name)
        calls[name].argtypes, calls[name].restype = [ctypes.c_void_p], None
    return calls


@build.checked
def is_available() -> bool:
    """Whether this machine has the calls. What they give is compared with the formulas by who uses them."""
    return bool(_calls())
