"""A model's vocabulary as llguidance takes it, made once for each tokenizer."""

from __future__ import annotations

import functools
import re
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.errors import UnsupportedError

if TYPE_CHECKING:
    from counterpoint.constraints.compiled import Compiled
    from counterpoint.constraints.kinds import Constraint

SPACE = b" \t\r\n"  # JSON's white space
MARKS = frozenset(b'":,]}')  # of JSON
MOST_COMPILED = 256  # constraints that are kept ready for one vocabulary


class Vocabulary:
    """The tokens of one model.

    Args:
        tokenizer: of transformers, of the fast kind.
        size: number of token ids of the model; those beyond the tokenizer's are never allowed.
        eos_ids: the tokens that end a text, at least one.
        name: what messages call the model.

    Raises:
        UnsupportedError: llguidance can't take the tokenizer.
    """

    def __init__(self, tokenizer: Any, size: int, eos_ids: tuple[int, ...], name: str) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise UnsupportedError("constraints need the package llguidance: pip install '.[constraints]'") from None
        self.size, self.eos_ids = size, eos_ids
        try:
            # Tokens beyond the model's own ids can be in a tokenizer; the mask is cut to the model's.
            self.tokens = from_tokenizer(tokenizer, n_vocab=max(size, len(tokenizer)), eos_token=list(eos_ids))
        except BaseException as error:  # a panic in Rust is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise UnsupportedError(
                f"constraints can't be kept with the tokenizer of {name} ({type(tokenizer).__name__}): "
                f"{' '.join(str(error).split())[:160]}; use a model with a fast tokenizer"
            ) from None
        self.specials = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content
        ]
        self.num_bytes = 4 * -(-self.tokens.vocab_size // 32)  # of a mask
        self.compiled: OrderedDict[Constraint, Compiled] = OrderedDict()
        self._texts: list[bytes] | None = None
        self._going_on: dict[bytes, frozenset[int]] = {}
        self._leading: np.ndarray | None = None  # characters of white space that each token begins with
        self._too_many: dict[tuple[int, int, bool, bool], np.ndarray] = {}

    @property
    def texts(self) -> list[bytes]:
        """The bytes of each token of the model."""
        if self._texts is None:
            count = min(self.size, self.tokens.vocab_size)
            self._texts = [self.tokens.decode_bytes([i]) for i in range(count)]
        return self._texts

    @functools.cached_property
    def with_marks(self) -> list[int]:
        """The tokens with a mark that ends a part of a JSON text."""
        return [token_id for token_id, text in enumerate(self.texts) if MARKS.intersection(text)]

    def going_on_after(self, end: bytes) -> frozenset[int]:
        """The tokens that can write the end of a text and something after it."""
        if end not in self._going_on:
            last = end[-1:]
            self._going_on[end] = frozenset(i for i, text in enumerate(self.texts) if last in text[:-1])
        return self._going_on[end]

    def too_many_spaces(self, spaces: Spaces) -> np.ndarray:
        """Packed bits of the tokens that would write more white space in a row than `spaces` allows."""
        key = (spaces.most, spaces.run, spaces.in_string, spaces.escaped)
        if key not in self._too_many:
            if self._leading is None:
                self._leading = np.array([len(text) - len(text.lstrip(SPACE)) for text in self.texts])
            bits = np.zeros(8 * self.num_bytes, dtype=bool)
            if not spaces.in_string:
                bits[: len(self._leading)] = (self._leading > 0) & (self._leading + spaces.run > spaces.most)
            # A run that begins inside of a token is short in nearly all of them.
            wide = re.compile(rb"[ \t\r\n]{%d,}" % (spaces.most + 1))
            for token_id, text in enumerate(self.texts):
                if wide.search(text):
                    bits[token_id] = spaces.copy().feed(text) > spaces.most
            self._too_many[key] = np.packbits(bits, bitorder="little")
        return self._too_many[key]


class Spaces:
    """Counts white space in a row outside of the strings of a JSON text, as bytes come.

    Args:
        most: how many are allowed.
        run: how many have just been written.
        in_string: whether a string is open.
        escaped: whether the next byte of it is escaped.
    """

    __slots__ = ("escaped", "in_string", "most", "run")

    def __init__(self, most: int, run: int = 0, in_string: bool = False, escaped: bool = False) -> None:
        self.most, self.run, self.in_string, self.escaped = most, run, in_string, escaped

    def feed(self, text: bytes) -> int:
        """Go on by some bytes; returns the longest run among them."""
        longest = 0
        for byte in text:
            if self.in_string:
                if self.escaped:
                    self.escaped = False
                elif byte == 0x5C:  # a backslash
                    self.escaped = True
                elif byte == 0x22:
                    self.in_string = False
                continue
            self.run = self.run + 1 if byte in SPACE else 0
            self.in_string = byte == 0x22
            longest = max(longest, self.run)
        return longest

    def copy(self) -> Spaces:
        return Spaces(self.most, self.run, self.in_string, self.escaped)


_known: weakref.WeakKeyDictionary[Any, dict[tuple[int, tuple[int, ...]], Vocabulary]] = weakref.WeakKeyDictionary()


def vocabulary_of(model: Any) -> Vocabulary:
    """The vocabulary of a model, made at its first use and kept as long as its tokenizer lives.

    Raises:
        UnsupportedError: the model has no tokenizer, or no token that ends a text.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise UnsupportedError(
            f"{model.name} has no tokenizer, so its output can't be held to a form; load it with one"
        )
    eos_ids = tuple(sorted(model.eos_ids)) or tuple(i for i in [tokenizer.eos_token_id] if i is not None)
    if not eos_ids:
        raise UnsupportedError(f"{model.name} has no token that ends a text, so no form could be ended; set one")
    known = _known.setdefault(tokenizer, {})
    key = (model.vocab_size, eos_ids)
    if key not in known:
        known[key] = Vocabulary(tokenizer, model.vocab_size, eos_ids, model.name)
    return known[key]
