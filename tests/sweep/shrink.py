"""A small model of any class of transformers: its default config with widths, depths and lengths shrunk.

A rule looks at the name of a field and says what part it plays; sizes are chosen by part. Where a class wants other
proportions than the first ones tried, the next ones are tried, until the model can be built and reads a text.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sweep.sizes import (
    BOS,
    FILLED,
    FILLED_LAST,
    FIRST,
    HINTS,
    LACKING,
    LAST,
    OF_OTHERS,
    OTHERS,
    PAD,
    PARTS,
    SCALES,
    VOCAB,
)

SAME = 12  # failures after which no other proportions are tried, where all are one
SPREAD = 0.25  # standard deviation of the weights
MOST_PARAMETERS, MOST_LAST = 100_000_000, 300_000_000
TEXT = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)  # longer than a window


class CantBuild(Exception):
    """No proportions were found in which the class can be built and reads a text."""


def small_model(
    cls: type[PreTrainedModel], config_class: type[PreTrainedConfig], *, changes: dict[str, Any]
) -> PreTrainedModel:
    """A model of random weights in evaluation mode, the same at every call.

    Args:
        changes: fields of the config that are to have these values.

    Raises:
        CantBuild: with what the last attempts said.
    """
    failures: list[str] = []
    config_class = getattr(cls, "config_class", None) or config_class  # a text model of a composite config has its own
    for attempts, same, most in ((proportions(), SAME, MOST_PARAMETERS), (last_proportions(), 3 * SAME, MOST_LAST)):
        tried = len(failures)
        for sizes in attempts:
            try:
                config = small_config(config_class, sizes, changes)
                return build(cls, config, most=most)
            except Exception as error:  # noqa: BLE001 - other proportions may do
                reason = f"{type(error).__name__}: {str(error).strip()[:200]}"
                failures.append(reason)
                if len(failures) == tried + same and len(set(failures[tried:])) == 1:  # no proportion has a part in it
                    break
    raise CantBuild("; ".join(list(dict.fromkeys(failures))[:3]))


def proportions() -> Iterator[dict[str, Any]]:
    yield FIRST
    for other in OTHERS:
        yield {**FIRST, **other}
    for number, one in enumerate(OTHERS):
        for other in OTHERS[number + 1 :]:
            yield {**FIRST, **one, **other}


def last_proportions() -> Iterator[dict[str, Any]]:
    """For classes that no other proportions fit: with all that their defaults leave out, and other parts made small."""
    for sizes in ({}, *LAST):
        for others in OF_OTHERS:
            yield {**FIRST, "lacking": True, "filled": True, "others": others, **sizes}


def small_config(
    config_class: type[PreTrainedConfig], sizes: dict[str, Any], wanted: dict[str, Any]
) -> PreTrainedConfig:
    """The config of a small model, made by the class from the fields that differ from its default."""
    changes = _changes(config_class(), sizes) | wanted
    config = config_class(**changes)
    for part in (config, *_parts(config)):
        for name in ("eos_token_id", "forced_eos_token_id", "forced_bos_token_id", "suppress_tokens"):
            if getattr(part, name, None) is not None:
                with contextlib.suppress(Exception):  # some check that there is one
                    setattr(part, name, None)
    return config


def build(cls: type[PreTrainedModel], config: PreTrainedConfig, *, most: int = MOST_PARAMETERS) -> PreTrainedModel:
    """A model with weights of one spread, tried on a short text and on one that is longer than any window."""
    with torch.device("meta"):
        count = sum(p.numel() for p in cls(copy.deepcopy(config)).parameters())
    if count > most:
        raise ValueError(f"{count} parameters")
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.normal_(0, SPREAD)
    generation = model.generation_config
    generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD, BOS, None
    generation.forced_eos_token_id = generation.forced_bos_token_id = None
    if config.is_encoder_decoder:
        generation.decoder_start_token_id = BOS
    with torch.no_grad():
        read(model, TEXT)
    return model


def read(model: PreTrainedModel, ids: tuple[int, ...], decoded: tuple[int, ...] = ()) -> Tensor:
    """Logits after a text from the model alone: one row, no cache. -> (V,).

    Args:
        decoded: what an encoder-decoder has written so far.
    """
    takes = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    for module, name in ((m, n) for m in model.modules() for n in ("rope_deltas",) if n in vars(m)):
        setattr(module, name, None)
    if model.config.is_encoder_decoder:
        more["decoder_input_ids"] = torch.tensor([(model.generation_config.decoder_start_token_id, *decoded)])
        decoded = ()
    return model(input_ids=torch.tensor([(*ids, *decoded)]), **more).logits[0, -1].float()


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield value
            yield from _parts(value)


def _changes(config: PreTrainedConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    """What to give the config's class, so that it becomes small."""
    fields = {name: value for name, value in vars(config).items() if not name.startswith("_") or name == "_sliding"}
    accepted = inspect.signature(type(config).__init__).parameters
    kinds = _layer_kinds(fields)
    layers = max(sizes["layers"], len(set(kinds))) if kinds else sizes["layers"]
    chosen = _chosen_layers(kinds, layers, cycled=sizes.get("cycled", False))
    sizes = {**sizes, "layers": layers}
    depth = next(
        (v for n, v in fields.items() if _part(n) == "layers" and isinstance(v, int) and v == len(kinds)), None
    )
    changes: dict[str, Any] = {}
    placeholder = VOCAB - 12
    small, text = sizes.get("only"), config.get_text_config()
    filled = FILLED_LAST if sizes.get("lacking") else FILLED if sizes.get("filled") else ()
    for name, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            inner = sizes | {"layers": 2} if kinds else sizes
            if sizes.get("lacking") and text is not config and value is not text:
                inner = inner | {"only": sizes["others"], "filled": False}
            # What the default of the whole says of a part need not be the part's own default.
            own = value.to_diff_dict() if sizes.get("lacking") else {}
            small_ones = _changes(value, inner)
            alias = value.attribute_map | {kept: given for given, kept in value.attribute_map.items()}
            left_out = {"transformers_version", *small_ones, *(alias.get(n) for n in small_ones)}
            changes[name] = {n: v for n, v in own.items() if n not in left_out} | small_ones
            continue
        if name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            changes[name] = _rope(value, sizes)
            continue
        if name == "attention_types":
            changes[name] = [[kinds, layers // len(kinds)] for kinds, _ in value]
            continue
        is_by_layer = isinstance(value, (list, tuple)) and bool(value) and bool(kinds) and len(value) == len(kinds)
        if small is not None and _part(name) not in small and not ("layers" in small and is_by_layer):
            continue
        if is_by_layer and depth is not None:
            changes[name] = type(value)(_small(name, value[at], sizes) for at in chosen)
            continue
        part = _part(name)
        if value is None and sizes.get("lacking") and name in LACKING:
            changes[name] = LACKING[name][:layers] if isinstance(LACKING[name], list) else LACKING[name]
        elif value is None and part in filled:
            changes[name] = sizes[part]
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if part == "placeholder":
            changes[name], placeholder = placeholder, placeholder + 1
        elif sizes.get(part, "") is not None and part is not None and not (part in SCALES and value <= SCALES[part]):
            changes[name] = sizes[part]
    if "kv_lora_rank" not in fields and "head_dim" in changes and fields.get("num_attention_heads") is None:
        del changes["head_dim"]
    by_layer = vars(config).get("_heterogeneity_spec")
    if by_layer is not None:
        changes["per_layer_config"] = {
            new: {n: sizes.get(_part(n) or "", v) for n, v in by_layer.per_layer_overrides[at].items()}
            for new, at in enumerate(chosen or range(layers))
            if at in by_layer.per_layer_overrides
        }
    changes |= HINTS.get(type(config).__name__, {})
    width = fields.get("hidden_size")
    if sizes.get("lacking") and "hidden_size" in changes and isinstance(width, int) and width > changes["hidden_size"]:
        # A number that is as large as the width by default may have to go with it.
        same = [n for n, v in fields.items() if v == width and n not in changes and not isinstance(v, bool)]
        changes |= dict.fromkeys(same, changes["hidden_size"])
    if sizes.get("whole_head") and {"head_dim", "qk_nope_head_dim"} <= fields.keys():
        changes["head_dim"] = sizes["whole_head"]
    named = accepted.keys() | {"model_type", "per_layer_config"}
    if sizes.get("lacking"):
        alias = {kept: given for given, kept in type(config).attribute_map.items() if given in named}
        changes = {n if n in named else alias.get(n, n): v for n, v in changes.items()}
    return {n: v for n, v in changes.items() if n in named or "kwargs" in accepted or n in type(config).__dict__}


def _small(name: str, value: Any, sizes: dict[str, Any]) -> Any:
    part = _part(name)
    number = isinstance(value, int) and not isinstance(value, bool)
    return sizes[part] if number and part in ("inner", "hidden", "heads", "kv", "window") and value > 0 else value


def _part(name: str) -> str | None:
    return next((part for pattern, part in PARTS if re.search(pattern, name)), None)


def _layer_kinds(fields: dict[str, Any]) -> list[str]:
    """The kinds of the layers, one each; empty where the config has none."""
    for name in ("layer_types", "layers_block_type", "block_types", "attention_layers"):
        value = fields.get(name)
        if isinstance(value, (list, tuple)) and value and all(isinstance(kind, str) for kind in value):
            return list(value)
    return []


def _chosen_layers(kinds: list[str], count: int, *, cycled: bool) -> list[int]:
    """One layer of each kind, then the first others; or one of each kind in turn."""
    first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    if cycled and first:
        return (first * count)[:count]
    rest = [at for at in range(len(kinds)) if at not in first]
    return sorted(first + rest[: max(0, count - len(first))])


def _rope(value: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(inner, dict) for inner in value.values()):
        return {name: _rope(inner, sizes) if isinstance(inner, dict) else inner for name, inner in value.items()}
    changed = dict(value)
    if "original_max_position_embeddings" in changed:
        changed["original_max_position_embeddings"] = sizes["original"]
    if "mrope_section" in changed or sizes.get("mrope"):  # for time, height and width: half of a head's rotated numbers
        changed["mrope_section"] = [sizes["sections"] - 2 * (each := max(sizes["sections"] // 3, 1)), each, each]
        if sizes.get("mrope_last"):
            changed["mrope_section"].reverse()
        if sizes["sections"] < 3:
            changed["mrope_section"] = [1, 1, 0]
    return changed
