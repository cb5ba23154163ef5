"""Rules that a program checks on an answer, by the names that the command line has for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from counterpoint.errors import UsageError
from counterpoint.evaluate.instructions import INSTRUCTIONS, words


@dataclass(frozen=True, slots=True)
class Rule:
    """Says of an answer whether it is good enough to learn from.

    Args:
        name: what cards and messages call it.
        check: (text, whether the model ended it) -> whether it keeps the rule.
    """

    name: str
    check: Callable[[str, bool], bool]


def read_rule(text: str) -> Rule:
    """A rule from its text form.

    regex=PATTERN         the answer holds a match of a regular expression; (?i) ignores case
    no=PATTERN            it holds none
    at-most-words=COUNT   at most so many words, and the model ended it
    ended=yes             the model ended it
    instruction=NAME      it does what one of `evaluate.instructions` asks for

    Raises:
        UsageError: it is none of these, or what follows can't be read.
    """
    kind, equals, value = text.partition("=")
    if not equals or not value:
        raise UsageError(f"the rule {text[:60]!r} is not KIND=VALUE; kinds are {', '.join(_KINDS)}", param="rule")
    if kind not in _KINDS:
        raise UsageError(f"the rule {text[:60]!r} is of an unknown kind; kinds are {', '.join(_KINDS)}", param="rule")
    return Rule(text, _KINDS[kind](value))


def keeps_all(rules: Sequence[Rule], text: str, is_ended: bool) -> bool:
    """Whether an answer has a word and keeps every rule."""
    return bool(words(text)) and all(rule.check(text.strip(), is_ended) for rule in rules)


def _pattern(value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except re.error as error:
        raise UsageError(f"the rule's pattern {value[:60]!r} can't be read: {error}", param="rule") from None


def _regex(value: str) -> Callable[[str, bool], bool]:
    pattern = _pattern(value)
    return lambda text, _: pattern.search(text) is not None


def _no(value: str) -> Callable[[str, bool], bool]:
    pattern = _pattern(value)
    return lambda text, _: pattern.search(text) is None


def _at_most(value: str) -> Callable[[str, bool], bool]:
    if not value.isdigit() or not int(value):
        raise UsageError(
            f"the rule at-most-words={value[:20]} has no count; use a whole number, 1 or more", param="rule"
        )
    most = int(value)
    return lambda text, is_ended: is_ended and len(words(text)) <= most


def _ended(value: str) -> Callable[[str, bool], bool]:
    if value != "yes":
        raise UsageError(f"the rule ended={value[:20]} can't be read; write ended=yes", param="rule")
    return lambda _, is_ended: is_ended


def _instruction(value: str) -> Callable[[str, bool], bool]:
    known = {one.name: one for one in INSTRUCTIONS}
    if value not in known:
        raise UsageError(f"there is no instruction {value[:40]!r}; known are {', '.join(known)}", param="rule")
    return lambda text, is_ended: known[value].is_fulfilled(text, is_ended=is_ended)


_KINDS: dict[str, Callable[[str], Callable[[str, bool], bool]]] = {
    "regex": _regex, "no": _no, "at-most-words": _at_most, "ended": _ended, "instruction": _instruction,
}  # fmt: skip
