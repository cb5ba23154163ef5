"""Whether a text has come to say the same thing over and over."""

from __future__ import annotations

from typing import Any

from counterpoint.errors import SamplingError


class Loops:
    """Watches tokens as they come; exact, in time and memory of the longest period.

    Args:
        longest: most tokens of the passage that is repeated, 1 or more.
        repeats: how many times it has to stand there in a row, 2 or more.
    """

    def __init__(self, longest: int, repeats: int) -> None:
        self._longest, self._repeats = longest, repeats
        self._last: list[int] = []  # the newest tokens
        self._same = [0] * longest  # for each period, how many of the newest tokens equal the one a period before

    def extend(self, token_id: int) -> bool:
        """Take one more token; whether the text now ends in a passage that stands there `repeats` times."""
        self._last.append(token_id)
        found = False
        for at in range(min(self._longest, len(self._last) - 1)):
            is_same = self._last[-2 - at] == token_id
            self._same[at] = self._same[at] + 1 if is_same else 0
            found = found or self._same[at] >= (at + 1) * (self._repeats - 1)
        del self._last[: -self._longest - 1]
        return found


def checked_loop(loop: Any) -> tuple[int, int]:
    """`loop` as (longest period, repeats); a `SamplingError` where it is something else."""
    try:
        longest, repeats = loop
    except (TypeError, ValueError):
        raise SamplingError(f"loop is {loop!r:.60}; use (longest period, repeats), as (32, 4)", param="loop") from None
    for name, value, least in (("longest period", longest, 1), ("number of repeats", repeats, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SamplingError(f"loop has {value!r} as its {name}; use a whole number, {least} or more", param="loop")
    return longest, repeats
