"""What a branch can read besides a text or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A branch that another model reads; it must have the tokenizer of the request's own.

    Args:
        model: a `Model`, or `model.with_adapter(...)` for the same weights in another state.
        context: what it reads; None is the prompt.
    """

    model: Any
    context: Any = None


@dataclass(frozen=True, slots=True)
class Swapped:
    """The prompt with one passage of it replaced, or left out: an instruction by its opposite, a document by nothing.

    Args:
        passage: a text that the prompt holds once.
        instead: what stands there in this branch; empty leaves the passage out with the white space after it.
    """

    passage: str
    instead: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.passage, str) or not self.passage.strip() or not isinstance(self.instead, str):
            raise PromptError(f"the passage to swap is {self.passage!r:.60}; give a text of the prompt")

    def write(self, prompt: str) -> str:
        """The prompt's text with the swap made.

        Raises:
            PromptError: the prompt does not hold the passage, or holds it more than once.
        """
        count = prompt.count(self.passage)
        if count != 1:
            raise PromptError(
                f"the prompt holds the passage {self.passage[:40]!r} {count} times; give one that it holds once"
            )
        before, _, after = prompt.partition(self.passage)
        return before + self.instead + (after if self.instead else after.lstrip())
