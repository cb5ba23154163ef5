"""Whether a model of codes writes the same with a cache as without one: a trial on the model itself, once."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from counterpoint.errors import UnsupportedError
from counterpoint.models.close import is_within

NUM_STEPS = 3
TOLERANCE = 0.02  # of the largest logit; what is misread differs by as much as that

_AGREES: weakref.WeakKeyDictionary[PreTrainedModel, bool] = weakref.WeakKeyDictionary()


def check_cached(model: PreTrainedModel, arguments: Mapping[str, Any]) -> None:
    """Raise where the model's own loop predicts something else with a cache, as MusicGen Melody does in old versions.

    Args:
        arguments: of an unguided `model.generate`.

    Raises:
        UnsupportedError: it does.
    """
    if model not in _AGREES:
        cached, anew = (_first_logits(model, arguments, use_cache) for use_cache in (True, False))
        _AGREES[model] = all(is_within(a, b, TOLERANCE) for a, b in zip(cached, anew, strict=True))
    if not _AGREES[model]:
        raise UnsupportedError(
            f"{type(model).__name__} of transformers {transformers.__version__} writes something else with a cache than "
            "without; use another version"
        )


class _Enough(Exception):
    """The trial has seen what it wants."""


def _first_logits(model: PreTrainedModel, arguments: Mapping[str, Any], use_cache: bool) -> list[Tensor]:
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, out: Any) -> None:
        seen.append(out.logits[:, -1].float())
        if len(seen) == NUM_STEPS:
            raise _Enough  # before a sound is made of it

    hook = model.register_forward_hook(keep)
    try:
        with torch.no_grad(), contextlib.suppress(_Enough):
            model.generate(**arguments, do_sample=False, max_new_tokens=4 * NUM_STEPS, use_cache=use_cache)
    finally:
        hook.remove()
    return seen
