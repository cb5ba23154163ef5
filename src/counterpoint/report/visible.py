"""Text of any origin made safe to look at: what would act instead of being seen is written out."""

from __future__ import annotations

import unicodedata

# Joiners and tags make up emoji and some scripts; without them the text would look wrong.
_WANTED = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
_ACTS = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """Control characters as their pictures, other characters that act without being seen as `⟨U+202E⟩`."""
    return "".join(map(_shown, text))


def label(text: str) -> str:
    """A token's label in a list: as `visible`, with the spaces at its ends as `␣`."""
    inner = text.strip(" ")
    start = len(text) - len(text.lstrip(" "))
    return "␣" * start + visible(inner) + "␣" * (len(text) - start - len(inner))


def pieces(text: str) -> list[tuple[str, bool]]:
    """A text in pieces for a page: (text, whether it is written out). A line end is shown and kept."""
    result: list[tuple[str, bool]] = []
    for char in text:
        shown = _shown(char)
        if shown != char:
            result.append((shown, True))
            if char == "\n":
                result.append((char, False))
        elif result and not result[-1][1]:
            result[-1] = (result[-1][0] + char, False)
        else:
            result.append((char, False))
    return result


def _shown(char: str) -> str:
    code = ord(char)
    if char == "\n":
        return "↵"
    if char == "\t":
        return "⇥"
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(char) in _ACTS and char not in _WANTED:
        return f"⟨U+{code:04X}⟩"
    return char
