"""What goes wrong in texts of guidance that is too strong, counted as the article on guided chats describes it.

Source: Smirnov 2024 (arXiv 2412.06846): sentences that begin in lower case, the assistant taken for the user, and one
word over and over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from counterpoint.evaluate.diversity import repetition

_SENTENCE = re.compile(r"(?:^|[.!?]\s+)[\"'(*]*([^\W\d_])")
_ROLES = re.compile(
    r"\b(?:you (?:are|do not|don['’]t) (?:an? (?:\w+ )?(?:assistant|ai|interface|bot)|have)|you['’]re an? )", re.I
)


@dataclass(frozen=True, slots=True)
class TextArtefacts:
    """The marks of one answer.

    Args:
        lower_case: share of its sentences that begin in lower case, 0 to 1; 0 where it has no sentence.
        confuses_roles: whether it tells the user what the assistant is.
        repetition: share of its 3-grams of words that it had already.
        symbols: share of its characters that are neither letters, digits, white space nor usual punctuation.
    """

    lower_case: float
    confuses_roles: bool
    repetition: float
    symbols: float


def find_artefacts(text: str) -> TextArtefacts:
    """Count them in one answer."""
    begins = _SENTENCE.findall(text)
    odd = sum(not (char.isalnum() or char.isspace() or char in USUAL) for char in text)
    return TextArtefacts(
        lower_case=sum(letter.islower() for letter in begins) / len(begins) if begins else 0.0,
        confuses_roles=_ROLES.search(text) is not None,
        repetition=repetition(text),
        symbols=odd / len(text) if text else 0.0,
    )


#: what a plain answer may hold besides letters, digits and white space
USUAL = frozenset(".,;:!?'\"()[]{}-–—’‘“”*/%&+=<>#$`_\\|@°~^…€£")
