"""What a branch can read besides a text or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from counterpoint.errors import PromptError


@dataclass(frozen=True, slots=True)
class LastTokens:
    """The last `count` tokens of the prompt. One is the default of Sanchez et al. 2023; more is coherence boosting
    (Malkin et al. 2022, arXiv 2110.08294)."""

    count: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise PromptError(f"LastTokens has the count {self.count!r}; use 1 or more")


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing but the token that begins a text."""


@dataclass(frozen=True, slots=True)
class Suffix:
    """A text or token ids appended to everything that the conditional branch holds, read anew at each step.

    It needs no cache of its own (MTI, arXiv 2510.13940).
    """

    context: str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text that holds its special tokens already, as a chat template writes it; the tokenizer adds none."""

    text: str
