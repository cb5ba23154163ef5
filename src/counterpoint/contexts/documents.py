"""Context-aware decoding: a question with its documents against the same question without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.contexts.chat import chat
from counterpoint.errors import PromptError
from counterpoint.guide import Branch

TEMPLATE = "{documents}\n\nQuestion: {question} Answer:"
DOCUMENT_JOINT = "\n\n"


def documents(
    question: str,
    texts: Sequence[str],
    *,
    dropped: Sequence[int] | None = None,
    template: str = TEMPLATE,
    model: Any = None,
    system: str | None = None,
) -> BranchedPrompt:
    """A question with documents against the same without them, so that the answer comes from the documents.

    The prompt is the template with both filled in. In the other branch the documents are left out together with the
    white space after them, and nothing else changes.

    Args:
        question: a text.
        texts: the documents, one or more, joined by an empty line.
        dropped: numbers (from 0) of the documents that the other branch loses; None is all.
        template: a text with {documents} and {question}; the default is what the bundled model was trained on.
        model: write it as a user turn through this model's (or tokenizer's) chat template; None is plain text.
        system: the system message of both branches, with `model`.

    Raises:
        PromptError: no document, an empty one, a number out of range, or a template without its two fields.

    Source: Shi et al. 2023, arXiv 2305.14739, whose alpha is the guidance scale - 1; with `Guide(scale=2,
    adaptive="jsd")` AdaCAD, arXiv 2409.07394.
    """
    if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise PromptError(f"documents are {str(texts)[:60]!r}; give a list of texts that are not empty")
    for field in ("{documents}", "{question}"):
        if template.count(field) != 1:
            raise PromptError(f"the template {template[:60]!r} needs {field} once")
    dropped = range(len(texts)) if dropped is None else dropped
    for number in dropped:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(texts):
            raise PromptError(f"dropped names the document {number!r}; use numbers from 0 to {len(texts) - 1}")
    kept = [text for number, text in enumerate(texts) if number not in set(dropped)]
    with_texts, without = _filled(template, question, texts), _filled(template, question, kept)
    if model is None:
        return BranchedPrompt(with_texts, (Branch(without),))
    first = [] if system is None else [{"role": "system", "content": system}]
    cond, other = ([*first, {"role": "user", "content": text}] for text in (with_texts, without))
    return chat(model, cond, negative=other)


def _filled(template: str, question: str, texts: Sequence[str]) -> str:
    before, _, after = template.partition("{documents}")
    after = after if texts else after.lstrip()
    # One pass over each part, so that a document that contains "{question}" stays as it is.
    parts = [part.replace("{question}", question) for part in (before, after)]
    return DOCUMENT_JOINT.join(texts).join(parts)
