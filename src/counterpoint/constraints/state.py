"""How far one sample is in keeping a constraint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from counterpoint.constraints.vocabulary import Spaces, Vocabulary
from counterpoint.errors import ConstraintError

if TYPE_CHECKING:
    from llguidance import LLMatcher


class State(ABC):
    """How far one sample is. Made by `Compiled.start`.

    Where the form leaves only one way to go on, the tokens are those of the tokenizer's own split of that text; other
    splits of the same text are not allowed.
    """

    vocabulary: Vocabulary

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether what was written keeps the constraint as a whole."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether the text has been ended by an end token, so that nothing can follow."""

    @property
    @abstractmethod
    def form(self) -> FormState:
        """The state of the grammar that masks are computed of.

        Raises:
            ConstraintError: see `allowed`.
        """

    @abstractmethod
    def allowed(self) -> np.ndarray:
        """Which tokens may come next: bit `i % 8` of byte `i // 8` is token i. Packed, (num_bytes,) of uint8; not to be
        changed.

        Raises:
            ConstraintError: the constraint has become too large to be followed, or leaves nothing.
        """

    @abstractmethod
    def accept(self, token_id: int) -> None:
        """Go on by one token.

        Raises:
            ConstraintError: the token is not allowed here, or the constraint has become too large to be followed.
        """

    @abstractmethod
    def forced(self) -> list[int]:
        """The tokens that come next whatever the model predicts, as far as they can be told at once; empty where there is
        a choice."""

    @abstractmethod
    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, from the first on, may come next in this order; or more than that, where telling
        would take as long as choosing them."""

    @abstractmethod
    def fork(self) -> State:
        """The same state once more, to go on in another way."""


class FormState(State):
    """The state of a sample that keeps a grammar.

    Args:
        matcher: of llguidance, this state's alone.
        vocabulary: the model's tokens.
        spaces: counts white space; None where its number is not bounded here.
        after: the bytes that come before the form; None where it begins at once.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, spaces: Spaces | None, after: bytes | None) -> None:
        self._matcher, self.vocabulary = matcher, vocabulary
        self._spaces, self._after, self._before = spaces, after, b""
        self._bits: np.ndarray | None = None
        self._pending: Future[None] | None = None  # somebody computes `_bits`
        self._ended = False

    @property
    def complete(self) -> bool:
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        return self._ended

    @property
    def form(self) -> FormState:
        return self

    def allowed(self) -> np.ndarray:
        self._settle()
        if self._ended:
            raise ConstraintError("the text has ended, so no token can follow")
        if self._bits is None:
            bits: np.ndarray = np.empty(self.vocabulary.num_bytes, dtype=np.uint8)
            self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            self.take(bits)
        return self._bits

    def take(self, bits: np.ndarray) -> None:
        """Have the mask that llguidance computed for this state, (num_bytes,) of uint8."""
        self._check()
        if self._spaces is not None and self._after is None:
            spaces = self._spaces
            bits &= ~self.vocabulary.too_many_spaces(spaces)
        if not bits.any():
            raise ConstraintError("the constraint leaves no token to go on with; loosen it")
        self._bits = bits

    def accept(self, token_id: int) -> None:
        self._settle()
        if self._ended or not self._is_allowed(token_id):
            raise ConstraintError(f"the constraint does not allow the token id {token_id} here")
        self._matcher.consume_token(token_id)
        self._check()
        self._bits = None
        if token_id in self.vocabulary.eos_ids:
            self._ended = True
        elif self._spaces is not None:
            self._follow(self.vocabulary.texts[token_id])

    def forced(self) -> list[int]:
        self._settle()
        if self._ended:
            return []
        ids = self._matcher.compute_ff_tokens()
        if not ids and self._matcher.is_stopped() and len(self.vocabulary.eos_ids) == 1:
            ids = list(self.vocabulary.eos_ids)
        self._check()
        return ids

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        self._settle()
        return 0 if self._ended else self._matcher.validate_tokens(list(token_ids))

    def fork(self) -> FormState:
        self._settle()
        spaces = None if self._spaces is None else self._spaces.copy()
        other = FormState(self._matcher.deep_copy(), self.vocabulary, spaces, self._after)
        other._before, other._bits, other._ended = self._before, self._bits, self._ended
        return other

    def _is_allowed(self, token_id: int) -> bool:
        if self._bits is not None:
            return bool(self._bits[token_id // 8] >> (token_id % 8) & 1)
        if self._matcher.is_stopped():
            return token_id in self.vocabulary.eos_ids
        return self._matcher.validate_tokens([token_id]) == 1

    def _settle(self) -> None:
        """Wait for whoever computes the mask: a matcher is one thread's at a time."""
        if self._pending is not None:
            self._pending.exception()
            self._pending = None

    def _follow(self, text: bytes) -> None:
        if self._after is None:
            self._spaces.feed(text)
            return
        self._before += text
        at = self._before.find(self._after)
        if at >= 0:
            rest = self._before[at + len(self._after) :]
            self._after, self._before = None, b""
            self._spaces.feed(rest)
        else:
            self._before = self._before[-len(self._after) :]

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split("<state>")[0].split())[:160]
            raise ConstraintError(f"the constraint can't be followed any further: {reason}; make it simpler")
