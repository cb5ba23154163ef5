"""What transformers' `generate` knows and doesn't hand on, read from its frame on the call stack.

A logits processor is given ids and scores, not where the prompt ends; a callable for `custom_generate` is given neither
the streamer, nor the assistant, nor a negative prompt without a scale. All of them are local variables of `generate`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from transformers import GenerationMixin
from transformers.generation import candidate_generator

from counterpoint.errors import Failure

GENERATE = inspect.unwrap(GenerationMixin.generate).__code__


@dataclass(frozen=True, slots=True)
class Caller:
    """The `generate` that is running. `names` are its local variables."""

    names: dict[str, Any]
    withheld_scale: Any = None  # the guidance_scale that a class's own `generate` was given and did not hand on

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise Failure(
                f"generate of this transformers has no variable {name!r}; use a tested version of transformers"
            )
        return self.names[name]


def running_generate() -> Caller | None:
    """The innermost `generate` on the stack, None where there is none."""
    found: dict[str, Any] | None = None
    for frame in _stack():
        if found is None and frame.f_code is GENERATE:
            found = frame.f_locals
        elif found is not None and frame.f_code.co_name == "generate" and frame.f_locals.get("self") is found["self"]:
            given = frame.f_locals.get("kwargs")
            if isinstance(given, dict) and given.get("guidance_scale") is not None:
                return Caller(found, given["guidance_scale"])
    return None if found is None else Caller(found)


def is_drafting() -> bool:
    """Whether the tokens asked about are proposals of a candidate generator, which the model checks afterwards."""
    return any(frame.f_code.co_filename == candidate_generator.__file__ for frame in _stack())


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
