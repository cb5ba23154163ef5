"""A prompt with more than text in it, as a model's processor makes it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

from counterpoint.errors import PromptError


class Inputs:
    """What a model's processor makes of one prompt: its token ids, and with them pictures or sounds. A context like any
    other: a prompt, a negative, or that of a branch.

    Two are equal where all that they hold is equal, so that a negative which equals the prompt is known as such.

    Args:
        values: as `processor(text=..., images=..., return_tensors="pt")` gives them, with `input_ids` of shape (1, L).

    Raises:
        PromptError: there are no `input_ids` of that shape, or some of them are padding.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        if not isinstance(values, Mapping):
            raise PromptError(
                f"the inputs are {type(values).__name__}; give what the model's processor makes, with return_tensors='pt'"
            )
        self.values = {name: value for name, value in values.items() if value is not None}
        ids: Any = self.values.get("input_ids")
        mask: Any = self.values.get("attention_mask")
        shape = tuple(getattr(ids, "shape", ()))
        if len(shape) != 2 or shape[0] != 1 or not shape[1]:
            found = "no input_ids" if ids is None else f"input_ids of shape {shape}" if shape else "input_ids as a list"
            raise PromptError(
                f"the inputs have {found}; give those of one prompt, (1, length), with return_tensors='pt'"
            )
        if mask is not None and (tuple(mask.shape) != shape or not bool((mask != 0).all())):
            raise PromptError("the inputs have padding in their attention_mask; give each prompt by itself, without it")
        self.ids: tuple[int, ...] = tuple(ids[0].tolist())

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all values."""
        found = hashlib.sha256()
        for name, value in sorted(self.values.items()):
            found.update(name.encode())
            _add(found, value)
        return found.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inputs) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __deepcopy__(self, memo: object) -> Inputs:
        return self  # nothing here is ever changed

    def __repr__(self) -> str:
        beside = ", ".join(name for name in self.values if name not in ("input_ids", "attention_mask"))
        return f"Inputs({len(self.ids)} tokens{', ' if beside else ''}{beside})"


def _add(found: Any, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        found.update(f"{len(value)} values".encode())
        for one in value:
            _add(found, one)
    elif hasattr(value, "detach"):
        import torch

        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        found.update(repr(value).encode())
