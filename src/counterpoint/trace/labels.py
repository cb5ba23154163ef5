"""What single tokens are called, incomplete characters included."""

from __future__ import annotations

import re
from collections.abc import Callable

from transformers.convert_slow_tokenizer import bytes_to_unicode

from counterpoint.models.model import Model

INCOMPLETE = "�"  # what a decoder writes for part of a character
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def labeller(model: Model) -> Callable[[int], str]:
    """Token id to its label: its text, as it stands inside of a text; its name, for a special token; its bytes as
    `\\xf0\\x9f`, for part of a character; `#id`, where there is nothing better."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return lambda token_id: f"#{token_id}"
    special = set(tokenizer.all_special_ids)
    # Decoded behind another token, since some decoders drop the space that a text begins with.
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = model.decode(anchor)
    known: dict[int, str] = {}

    def label(token_id: int) -> str:
        if token_id not in known:
            known[token_id] = _label(token_id)
        return known[token_id]

    def _label(token_id: int) -> str:
        piece = tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return f"#{token_id}"
        if token_id in special:
            return piece
        text = model.decode([*anchor, token_id])
        text = text[len(before) :] if text.startswith(before) else model.decode([token_id])
        if INCOMPLETE not in text:
            return text or piece
        raw = _raw(piece)
        return f"#{token_id}" if raw is None else raw.decode(errors="backslashreplace")

    return label


def _raw(piece: str) -> bytes | None:
    """The bytes of a token in the two usual ways of writing them; None for any other."""
    match = _BYTE.fullmatch(piece)
    if match:
        return bytes([int(match[1], 16)])
    table = {char: byte for byte, char in bytes_to_unicode().items()}
    return bytes(table[char] for char in piece) if all(char in table for char in piece) else None
