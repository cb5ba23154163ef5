"""What the installed transformers calls a model's cache, found by its type.

transformers 5.24 renamed `past_key_values` and `cache_params` to `cache`. Nothing else in this package spells the name.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from transformers import Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.generation.utils import ALL_CACHE_NAMES, GenerateDecoderOnlyOutput
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import CausalLMOutputWithPast

#: Every name under which `generate` hands a cache on, among them those of states that are no `Cache` (RWKV, XLNet).
CACHE_NAMES: tuple[str, ...] = tuple(ALL_CACHE_NAMES)


def cache_argument(function: Callable[..., Any]) -> str | None:
    """The parameter that takes the cache of the text being read; None where there is none.

    The first one that is annotated as a `Cache`; else the first that `generate` knows as the name of one.
    """
    parameters = inspect.signature(function).parameters
    typed = [name for name, parameter in parameters.items() if _is_cache(parameter.annotation)]
    named = [name for name in CACHE_NAMES if name in parameters]
    return next(iter([*typed, *named]), None)


def cache_of(values: Mapping[str, Any], name: str | None = None) -> Any:
    """The cache among the fields of an output or the arguments of a forward, None where there is none.

    Args:
        name: what the forward calls it; else, and where nothing is found there, a `Cache` is looked for.
    """
    if name is not None and values.get(name) is not None:
        return values[name]
    return next((value for value in values.values() if isinstance(value, Cache)), None)


def cache_field(output: type) -> str:
    """The field of an output class that holds the cache."""
    return next(field.name for field in dataclasses.fields(output) if _is_cache(field.type))


def is_empty(cache: Cache) -> bool:
    """Whether a cache holds no text yet."""
    for layer in cache.layers:
        if isinstance(layer, CacheLayerMixin) and layer.get_seq_length():
            return False
        if any(getattr(layer, "has_previous_state", {}).values()):  # of a recurrent layer, for each of its states
            return False
    return True


def _is_cache(annotation: object) -> bool:
    return re.search(r"\b\w*Cache\b", str(annotation)) is not None


#: in transformers' own function for masks, and in the outputs of a causal model and of `generate`
MASKS_ARGUMENT = cache_argument(create_masks_for_generate)
CAUSAL_FIELD, GENERATED_FIELD = cache_field(CausalLMOutputWithPast), cache_field(GenerateDecoderOnlyOutput)
