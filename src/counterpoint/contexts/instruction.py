"""One text under an instruction, against the same text under the opposite one."""

from __future__ import annotations

from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.errors import PromptError
from counterpoint.guide import Branch


def instruction(text: str, *, given: str, opposite: str | None = None, joint: str = "\n\n") -> BranchedPrompt:
    """A text after an instruction, against the same after the opposite instruction, or after none.

    Args:
        text: what follows the instruction in all branches. Empty to begin right after it.
        given: the instruction to follow.
        opposite: the one to move away from; None is the bare text.
        joint: what stands between an instruction and the text.

    Raises:
        PromptError: the given instruction is empty, or there is neither a text nor an opposite.

    Source: Sanchez et al. 2023, arXiv 2306.17806, section 3.4; the opposite as in arXiv 2412.06846.
    """
    if not given:
        raise PromptError("the given instruction is empty; give a text")
    if not text and not opposite:
        raise PromptError("there is neither a text nor an opposite instruction; give one of them")
    other = text if not opposite else opposite + joint + text
    return BranchedPrompt(given + joint + text, (Branch(other),))
