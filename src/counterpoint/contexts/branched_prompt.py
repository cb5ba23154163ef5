"""A prompt and its branches together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from counterpoint.errors import GuideError
from counterpoint.guide import Branch, Guide


@dataclass(frozen=True, slots=True)
class BranchedPrompt:
    """What a builder made: `counterpoint.generate(model, built, guide=...)`.

    Args:
        prompt: the conditional branch: a text, token ids or `Rendered`.
        branches: the further branches, at least one.
        guide: what the builder's source uses, taken where the caller gives none; None is the ordinary default.

    Raises:
        GuideError: there is no further branch.
    """

    prompt: Any
    branches: tuple[Branch, ...]
    guide: Guide | None = None

    def __post_init__(self) -> None:
        if not self.branches:
            raise GuideError("there is no branch beside the prompt; give at least one")
