"""A model's config made small: the same kinds of layers, narrow, with windows and other lengths of a few dozen tokens.

Names of fields only say what is tried first. Whether a field is a length is found out by building: a length changes no
weight's shape.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

WIDTH = re.compile(
    r"hidden|intermediate|dim|embd|inner|ffn|dff|d_ff|d_model|d_kv|rank|width|channels|head_size|d_head|d_ssm|projection"
)
FREE = re.compile(r"intermediate|ffn|d_ff|dff")  # widths that no other has to go with
LAYERS = re.compile(r"layers?$|^depth$|blocks?$")
EXPERTS = re.compile(r"experts?$|expert_num$")
CHOSEN = re.compile(r"experts_per|moe_top_?k|^top_?k|n_groups?$|topk_group|expert_group")
NO_LENGTH = re.compile(
    r"_ids?$|_index$|index(es|ices)$|idxs?$|section|factor|token|vocab|version|seed|heads?$|layers?$|experts?|groups?$|kernel|classes|labels"
)
MOST_FREE = 64
LEAST_HEAD = 8  # numbers in a head of the small model, at least
FIRST, APART, MOST = 16, 8, 40  # lengths of the small model: the shortest, how far apart, the longest
NUM_EXPERTS, MOST_CHOSEN, VOCAB = 16, 8, 160
KEPT_LENGTH = 32  # tokens; a length up to this is short enough to be tried as it is
LEAST_LENGTH = 5  # a smaller number counts something else, or shows in any text
TABLE = 48  # positions; a multiple of the chunks that some models fill up to

BY_LAYER = "per_layer_config"

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A small config.

    Args:
        config: the config.
        lengths: for each length of it, that of the model itself: where something may begin to act.
        tables: likewise for each number of positions that there is a table of.
    """

    config: PreTrainedConfig
    lengths: dict[int, int] = field(default_factory=dict)
    tables: dict[int, int] = field(default_factory=dict)


def narrowed(config: PreTrainedConfig, *, divisor: int, num_layers: int | None) -> PreTrainedConfig:
    """A copy with all widths divided, fewer layers (None: as many), few experts and a small vocabulary."""
    small = copy.deepcopy(config)
    for part in parts(small):
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
        depth = get(part, "num_hidden_layers")
        own = _by_layer(part)
        if own is not None:
            part.per_layer_config = None
        for name, value in list(vars(part).items()):
            if not isinstance(value, bool) and not name.startswith("_"):
                new = _narrowed(name, value, divisor, num_layers, depth)
                if new is not value:
                    _set(part, name, new)
        if own is not None:
            kept = {layer: fields for layer, fields in own.items() if num_layers is None or layer < num_layers}
            part.per_layer_config = {
                layer: {name: _narrowed(name, value, divisor, num_layers, depth) for name, value in fields.items()}
                for layer, fields in kept.items()
            }
    return small


def get(config: PreTrainedConfig, name: str, default: Any = None) -> Any:
    """A field of a config; the default also where each layer has its own."""
    try:
        return getattr(config, name, default)
    except Exception:  # transformers raises a RuntimeError of its own
        return default


def _by_layer(config: PreTrainedConfig) -> dict[int, dict[str, Any]] | None:
    """What differs from layer to layer, where a config says so for each."""
    spec = vars(config).get("_heterogeneity_spec")
    return None if spec is None else spec.per_layer_overrides


def parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config and the configs in it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from parts(value)


def divisors(config: PreTrainedConfig) -> list[int]:
    """By how much the widths can be divided, the best first."""
    text = config.get_text_config()
    head = get(text, "head_dim")
    if not isinstance(head, int) or head < LEAST_HEAD:
        heads, width = get(text, "num_attention_heads"), get(text, "hidden_size")
        head = width // heads if isinstance(heads, int) and isinstance(width, int) and heads else 64
    best = 1
    while best * 2 * LEAST_HEAD <= head and head % (best * 2) == 0 and best < 16:
        best *= 2
    return [d for d in dict.fromkeys((best, best // 2, 1)) if d >= 1]


def length_fields(config: PreTrainedConfig) -> dict[Path, int]:
    """Numbers that may be lengths in tokens, by where they stand in the text's config, or in that of an encoder-decoder."""
    found: dict[Path, int] = {}
    text = _text_of(config)
    _collect(vars(text), (), found)
    if config.is_encoder_decoder:
        for name, part in vars(config).items():
            if isinstance(part, PreTrainedConfig):
                _collect(vars(part), (name,), found)
    _collect({str(layer): fields for layer, fields in (_by_layer(text) or {}).items()}, (BY_LAYER,), found)
    return {path: value for path, value in found.items() if value >= LEAST_LENGTH}


def with_lengths(config: PreTrainedConfig, fields: dict[Path, int], *, tables: bool = False) -> Shrunk:
    """A copy whose `fields` have small values in the same order, equal ones equal.

    Args:
        tables: the fields are sizes of tables of positions, which get room for all other lengths.
    """
    small = copy.deepcopy(config)
    large = sorted({value for value in fields.values() if value > KEPT_LENGTH})
    first, most = FIRST, MOST
    if config.is_encoder_decoder:  # relative positions fail where they end before the buckets that stay as they are
        kept = max((value for value in fields.values() if value <= KEPT_LENGTH), default=0)
        first, most = max(FIRST, kept + APART), MOST + APART
    places = [TABLE] * len(large) if tables else [min(first + APART * at, most) for at in range(len(large))]
    new = dict(zip(large, places))
    for path, value in fields.items():
        if value in new:
            _put(_text_of(small), path, new[value])
    lengths: dict[int, int] = {}
    for value in sorted(set(fields.values())):
        # Where several stand for one, the least is what begins to act first.
        lengths.setdefault(new.get(value, value), value)
    return Shrunk(small, lengths)


def _collect(values: dict[str, Any], at: Path, found: dict[Path, int]) -> None:
    for name, value in values.items():
        name = str(name)
        if name.startswith("_") and name != "_sliding_window" or isinstance(value, bool):
            continue
        if isinstance(value, int) and not NO_LENGTH.search(name) and not WIDTH.search(name):
            found[(*at, name)] = value
        elif isinstance(value, dict):
            _collect(value, (*at, name), found)
        elif isinstance(value, list) and not NO_LENGTH.search(name) and not WIDTH.search(name):
            _collect({str(place): one for place, one in enumerate(value)}, (*at, name), found)


def _put(config: PreTrainedConfig, path: Path, value: int) -> None:
    if len(path) == 1:
        _set(config, path[0], value)
        return
    if path[0] == BY_LAYER:
        _by_layer(config)[int(path[1])][path[2]] = value
        return
    holder = getattr(config, path[0])
    if isinstance(holder, PreTrainedConfig):
        _put(holder, path[1:], value)
        return
    for name in path[1:-1]:
        holder = _at(holder, name)
    holder[int(path[-1]) if isinstance(holder, list) else path[-1]] = value


def _at(holder: Any, name: str) -> Any:
    return holder[int(name)] if isinstance(holder, list) else holder[name]


def _text_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config whose fields say at which text lengths something begins to act."""
    return config if config.is_encoder_decoder else config.get_text_config()


def _set(config: PreTrainedConfig, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except Exception:  # a field that checks itself before its fellows have changed
        vars(config)[name] = value


def _narrowed(name: str, value: Any, divisor: int, num_layers: int | None, depth: int | None) -> Any:
    if isinstance(value, (list, tuple)):
        return _shorter(name, value, divisor, num_layers, depth)
    if isinstance(value, dict):
        # Numbers of a rope's sections and factors are as many as a head's numbers, or add up to them.
        return {
            k: _shorter(str(k), v, divisor, None, None) if isinstance(v, (list, tuple)) else v for k, v in value.items()
        }
    if not isinstance(value, int):
        return value
    if "vocab" in name and value > VOCAB:
        return VOCAB
    if re.search(r"_ids?$", name) and value >= VOCAB:
        return VOCAB - 1
    if EXPERTS.search(name) and value > NUM_EXPERTS:
        return NUM_EXPERTS
    if CHOSEN.search(name):
        return min(value, MOST_CHOSEN)
    if LAYERS.search(name) and depth is not None and num_layers is not None and value == depth:
        return num_layers
    if WIDTH.search(name) and not name.startswith("num_") and value >= 2 * divisor:
        return min(value // divisor, MOST_FREE) if FREE.search(name) and divisor > 1 else value // divisor
    return value


def _shorter(name: str, value: Any, divisor: int, num_layers: int | None, depth: int | None) -> Any:
    kind = type(value)
    if depth is not None and num_layers is not None and len(value) == depth:
        kept = value[:num_layers]
        if WIDTH.search(name):
            kept = [_narrowed(name, one, divisor, num_layers, depth) for one in kept]
        return kind(kept)
    if "section" in name and all(isinstance(one, int) for one in value):
        return kind(max(1, one // divisor) for one in value)
    if len(value) >= 2 * divisor and all(isinstance(one, float | int) for one in value) and "factor" in name:
        return kind(value[: len(value) // divisor])
    return value
