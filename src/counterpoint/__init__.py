"""Counterpoint: classifier-free guidance for text generation, exact, fast, clear and everywhere.

import counterpoint as cp
model = cp.load("bundled")
done = cp.generate(model, PROMPT, negative=NEGATIVE, guide=cp.Guide(scale=3.0, space="prob"), max_tokens=60, seed=0)
print(done.text)
"""

from __future__ import annotations

import importlib
from typing import Any

from counterpoint.guide import Branch, Guide

__version__ = "0.1.0"

# What needs torch is imported when it is first asked for, so that `import counterpoint` is quick.
_LATER = {
    "load": "counterpoint.models.loading",
    "Vector": "counterpoint.vectors",
    "Watch": "counterpoint.watch",
    "Model": "counterpoint.models.model",
    "generate": "counterpoint.engine",
    "stream": "counterpoint.engine",
    "Engine": "counterpoint.engine",
    "Completion": "counterpoint.engine",
    "distil": "counterpoint.distillation",
    "assign": "counterpoint.assignment",
}
_ROOMS = (
    "assignment", "constraints", "contexts", "distillation", "errors", "formulas", "report", "sampling", "trace", "transformers",
)  # fmt: skip

__all__ = ["Branch", "Guide", "__version__", *_LATER, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"counterpoint.{name}")
    raise AttributeError(f"module 'counterpoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
