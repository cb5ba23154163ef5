"""What a request's branches really read: their texts, where they differ, and what looks like a slip."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.contexts.reading import ReadBranch, read_request
from counterpoint.guide import Branch, Guide

if TYPE_CHECKING:
    from counterpoint.models.model import Model

MOST_COMPARED = 3000  # pieces of each text; above it the middle is one difference
AROUND = 30  # characters shown on each side of a difference
_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
_MARKS = {"=": "{}", "-": "[-{}-]", "+": "{{+{}+}}"}


@dataclass(frozen=True, slots=True)
class ShownBranch:
    """One branch as it is read.

    Args:
        name: "prompt", "branch 1", ...
        weight: its weight in the combination; all weights sum to 1.
        num_tokens: how many tokens it begins with.
        text: its text with special tokens; token ids where there is no tokenizer.
        model: the name of the model that reads it, where that is not the request's own.
        changes: the way from the prompt's text to this one: ("=", kept), ("-", left out), ("+", put in).
        warnings: what looks like a slip.
    """

    name: str
    weight: float
    num_tokens: int
    text: str
    model: str | None = None
    changes: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """All branches of a request; `str()` is for a terminal, `to_dict()` for JSON."""

    branches: tuple[ShownBranch, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, each with the branch's name."""
        return tuple(f"{branch.name} {warning}" for branch in self.branches for warning in branch.warnings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "branches": [
                {
                    "name": branch.name,
                    "weight": branch.weight,
                    "tokens": branch.num_tokens,
                    "text": branch.text,
                    **({} if branch.model is None else {"model": branch.model}),
                    "changes": [list(change) for change in branch.changes],
                    "warnings": list(branch.warnings),
                }
                for branch in self.branches
            ]
        }

    def __str__(self) -> str:
        lines = []
        for branch in self.branches:
            reader = "" if branch.model is None else f", read by {branch.model}"
            lines += [f"--- {branch.name}: weight {branch.weight:g}, {branch.num_tokens} tokens{reader}", branch.text]
            if branch is not self.branches[0]:
                lines.append(f"--- {branch.name}, difference: {_marked(branch.changes) or 'none'}")
            lines += [f"--- warning: {branch.name} {warning}" for warning in branch.warnings]
        return "\n".join(lines)


def show(
    model: Model,
    prompt: Any,
    *,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    guide: Guide | None = None,
) -> Shown:
    """The texts of all branches of a request, as `generate` with these arguments reads them.

    Raises:
        UsageError: as `counterpoint.generate`.
    """
    prompt_ids, read, _ = read_request(
        model, prompt, negative=negative, branches=branches, guide=guide, takes_inputs=True
    )
    return show_read(model, prompt_ids, read)


def show_read(model: Model, prompt_ids: tuple[int, ...], read: Sequence[ReadBranch]) -> Shown:
    """The texts of branches that are read already, such as those of a `Request`."""
    text = _text(model, prompt_ids)
    first = ShownBranch("prompt", round(1 - sum(branch.weight for branch in read), 6), len(prompt_ids), text)
    return Shown((first, *(_shown(model, prompt_ids, text, branch, f"branch {n}") for n, branch in enumerate(read, 1))))


def _shown(model: Model, prompt_ids: tuple[int, ...], prompt: str, branch: ReadBranch, name: str) -> ShownBranch:
    ids = prompt_ids + branch.ids if branch.is_suffix else branch.ids
    text = _text(model, ids)
    return ShownBranch(
        name,
        round(branch.weight, 6),
        len(ids),
        text,
        None if branch.model is None else branch.model.name,
        tuple(_changes(prompt, text)),
        tuple(_slips(model, prompt_ids, prompt, branch, text)),
    )


def _slips(model: Model, prompt_ids: tuple[int, ...], prompt: str, branch: ReadBranch, text: str) -> list[str]:
    """What looks like a slip of the caller's."""
    slips = ["has weight 0, so it changes nothing"] if branch.weight == 0 else []
    if branch.is_suffix:
        return slips
    if branch.ids == prompt_ids:
        return (
            slips
            if branch.model is not None or branch.inputs is not None
            else [*slips, "is the prompt itself, so it changes nothing"]
        )
    # The end of the prompt, and nothing at all, are contexts of their own and differ by design.
    if branch.ids == prompt_ids[-len(branch.ids) :] or branch.ids == (model.bos_id,):
        return slips
    if model.bos_id is not None and (branch.ids[0] == model.bos_id) != (prompt_ids[0] == model.bos_id):
        slips.append("and the prompt: only one of them begins with the token that begins a text")
    if prompt.split() == text.split():
        return [*slips, "differs from the prompt in white space only"]
    ends = [t[len(t.rstrip()) :] for t in (prompt, text)]
    if ends[0] != ends[1]:
        slips.append(f"ends in {ends[1]!r} and the prompt in {ends[0]!r}, so guidance pushes on that too")
    skip = len(branch.ids[:1] + prompt_ids[:1]) == 2 and branch.ids[0] == prompt_ids[0] == model.bos_id
    ours, theirs = prompt_ids[skip:], branch.ids[skip:]
    if not _shared(ours, theirs) and not _shared(ours[::-1], theirs[::-1]):
        slips.append("has no beginning and no end in common with the prompt, so guidance pushes on everything")
    return slips


def _text(model: Model, ids: Sequence[int]) -> str:
    if model.tokenizer is None:
        return " ".join(map(str, ids))
    return model.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _changes(old: str, new: str) -> list[tuple[str, str]]:
    a, b = _PIECE.findall(old), _PIECE.findall(new)
    start = _shared(a, b)
    end = _shared(a[start:][::-1], b[start:][::-1])
    kept, tail = a[:start], a[len(a) - end :]
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    steps = [("=", kept)]
    if max(len(a), len(b)) > MOST_COMPARED:
        steps += [("-", a), ("+", b)]
    else:
        for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            steps += [("=", a[i:j])] if kind == "equal" else [("-", a[i:j]), ("+", b[k:m])]
    return [(mark, "".join(pieces)) for mark, pieces in [*steps, ("=", tail)] if pieces]


def _shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items both begin with."""
    return len(os.path.commonprefix([tuple(a), tuple(b)]))


def _marked(changes: Sequence[tuple[str, str]]) -> str:
    """Changes as one text, what is kept shortened."""
    if all(mark == "=" for mark, _ in changes):
        return ""
    parts = []
    for at, (mark, text) in enumerate(changes):
        if mark == "=":
            head = text[:AROUND] if at else ""
            tail = text[-AROUND:] if at < len(changes) - 1 else ""
            text = text if len(text) <= len(head) + len(tail) else f"{head}…{tail}"
        parts.append(_MARKS[mark].format(text))
    return "".join(parts)
