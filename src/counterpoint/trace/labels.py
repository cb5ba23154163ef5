"""What single tokens are called, incomplete characters included."""

from __future__ import annotations

import re
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from counterpoint.models.model import Model

INCOMPLETE = "�"  # what a decoder writes for part of a character
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Labeller:
    """Token ids to their labels and bytes.

    A label is the token's text, as it stands inside of a text; its name, for a special token; its bytes as `\\xf0\\x9f`,
    for part of a character; `#id`, where there is nothing better.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._tokenizer = model, model.tokenizer
        self._special = frozenset() if model.tokenizer is None else _special_ids(model.tokenizer)
        self._labels: dict[int, str] = {}
        self._bytes: dict[int, bytes] = {}
        if model.tokenizer is not None:
            # Decoded behind another token, since some decoders drop the space that a text begins with.
            self._anchor = model.tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
            self._before = model.decode(self._anchor)

    def __call__(self, token_id: int) -> str:
        """The token's label."""
        if token_id not in self._labels:
            self._labels[token_id], self._bytes[token_id] = self._read(token_id)
        return self._labels[token_id]

    def bytes(self, token_id: int) -> bytes:
        """The token's bytes, also where they are part of a character."""
        self(token_id)
        return self._bytes[token_id]

    def is_special(self, token_id: int) -> bool:
        """Whether the token adds nothing to a text that is read without special tokens."""
        return token_id in self._special

    def _read(self, token_id: int) -> tuple[str, bytes]:
        nameless = f"#{token_id}"
        piece = None if self._tokenizer is None else self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return nameless, b""
        if token_id in self._special:
            return piece, piece.encode()
        text = self._model.decode([*self._anchor, token_id])
        whole = text.startswith(self._before)
        text = text[len(self._before) :] if whole else self._model.decode([token_id])
        if INCOMPLETE not in text:
            return text or piece, text.encode()
        raw = _raw(piece)
        return (nameless, text.encode()) if raw is None else (raw.decode(errors="backslashreplace"), raw)


def labeller(model: Model) -> Labeller:
    """The labels of a model's tokens."""
    return Labeller(model)


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that a text read without special tokens leaves out: those with a role, and others added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {token_id for token_id, token in added.items() if token.special}


def _raw(piece: str) -> bytes | None:
    """The bytes of a token in the two usual ways of writing them; None for any other."""
    match = _BYTE.fullmatch(piece)
    if match:
        return bytes([int(match[1], 16)])
    table = {char: byte for byte, char in bytes_to_unicode().items()}
    return bytes(table[char] for char in piece) if all(char in table for char in piece) else None
