"""A small model of any class of transformers: its default config with widths, depths and lengths shrunk.

A rule looks at the name of a field and says what part it plays; sizes are chosen by part. Where a class wants other
proportions than the first ones tried, the next ones are tried, until the model can be built and reads a text.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

VOCAB = 200
PAD, BOS = 0, 1
SAME = 12  # failures after which no other proportions are tried, where all are one
SPREAD = 0.25  # standard deviation of the weights
CONTEXT = 256
MOST_PARAMETERS = 100_000_000
TEXT = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)  # longer than a window

#: what part a number of a config plays, by the name of its field; the first that matches
PARTS: tuple[tuple[str, str], ...] = (
    (r"(^|_)pad_token_id$", "pad"),
    (r"(^|_)bos_token_id$|decoder_start_token_id$", "bos"),
    (r"^forced_\w+_token_id$", "none"),
    (r"(^|_)(sep|cls|unk|mask|eos|eod)_token_id$", "special"),
    (r"_token_(id|index)$", "placeholder"),
    (r"vocab_size|_vocab$|^n_tokens$|^vocab_offset$", "vocab"),
    (r"shared_layers$", "shared"),
    (r"(layers?|depth|n_layer)$", "layers"),
    (
        r"(max_position_embeddings|n_positions|max_seq_len|max_target_positions|max_source_positions|context_length|n_ctx|"
        r"model_max_length|max_sequence_length|seq_length|max_length)$",
        "context",
    ),
    (r"original_max_position", "original"),
    (
        r"(sliding_window|window_size|local_attention|sliding_window_size|attention_window|mem_len|rel_extent)$",
        "window",
    ),
    (r"(chunk_size|chunk_length|block_size|floor_scale|n_floor|index_topk|max_inference_chunksize)$", "chunk"),
    (r"(key_value_heads|kv_heads|num_query_groups|n_head_kv|num_kv|n_kv_heads)$", "kv"),
    (r"(qk_rope_head_dim|rotary_dim)$", "rope"),
    (r"qk_head_dim$", "query"),
    (r"(mamba_n_heads|mamba_num_heads|n_mamba_heads)$", "state_heads"),
    (r"(mamba_d_head|mamba_head_dim|mamba_headdim)$", "state_head"),
    (r"(head_dim|d_head|head_size|d_kv|kv_channels|qk_nope_head_dim|v_head_dim)$", "head"),
    (r"(attention_heads|n_head|n_heads|num_heads|key_heads|value_heads|attn_heads)$", "heads"),
    (r"(rank|_rank)$|^d_rel$|laurel", "rank"),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_experts_total|n_experts)$", "experts"),
    (r"(experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|moe_top_k|experts_topk)$", "chosen"),
    (r"^(n_group|topk_group|num_expert_group|\w*mamba_ngroups|n_groups)$", "one"),
    (r"(d_state|state_size|ssm_state_size|conv_state)$", "state"),
    (
        r"(d_ssm|intermediate_size|ffn_dim|ffn_hidden_size|n_inner|d_ff|feed_forward_size|d_inner|dim_ff|inner_dim|mlp_dim)\w*$",
        "inner",
    ),
    (
        r"(hidden_size|d_model|n_embd|emb_dim|embedding_dim|dim_model|embed_proj_dim|embedding_size|embed_dim|lru_width|"
        r"attention_hidden_size|model_dim|hidden_dim|hidden_size_\w+|projection_dim|word_embed_\w+|out_dim)$",
        "hidden",
    ),
    (r"^num_image_tokens$|^image_seq_len(gth)?$", "picture"),
)

FIRST: dict[str, Any] = {
    "pad": PAD, "bos": BOS, "none": None, "special": 2, "vocab": VOCAB, "layers": 2, "shared": 2, "context": CONTEXT, "original": 32, "window": 8,
    "chunk": 8, "kv": 2, "rope": 8, "query": 16, "head": 8, "heads": 4, "state_heads": 8, "state_head": 8, "rank": 16,
    "experts": 4, "chosen": 2, "one": 1, "state": 8, "inner": 64, "hidden": 32, "picture": 4, "sections": 4,
}  # fmt: skip
#: proportions that some classes want, tried in turn and in pairs
OTHERS: tuple[dict[str, Any], ...] = (
    {"filled": True},
    {"layers": 4, "cycled": True},
    {"mrope": True},
    {"mrope": True, "sections": 2},
    {"kv": 4},
    {"heads": 8, "kv": 4},
    {"head": 16},
    {"head": 16, "rope": 16, "query": 32},
    {"rope": 4, "query": 12},
    {"state_heads": 4, "state_head": 16},
    {"layers": 4},
    {"layers": 6},
    {"experts": 8},
    {"head": 32},
    {"hidden": 64, "head": 16},
    {"kv": 1},
    {"rank": 32},
    {"chunk": 16},
    {"heads": 2, "kv": 2, "head": 16},
)


#: what no name of a field tells: fields that have to agree, or that the default leaves out
HINTS: dict[str, dict[str, Any]] = {
    "DoryConfig": {
        "n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8},
    "DeepseekV2Config": {"num_experts_per_tok": 2, "num_key_value_heads": 4},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "Dots1Config": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    },
    "DbrxConfig": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "ZambaConfig": {
        "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4, "n_mamba_heads": 2,
    },
    "XmodConfig": {"languages": ["en_XX"], "default_language": "en_XX"},
    "ReformerConfig": {
        "is_decoder": True, "attn_layers": ["local", "local"], "axial_pos_embds": False, "local_attn_chunk_length": 8,
    },
    "CohereCompassTextConfig": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
}  # fmt: skip


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
    for sizes in proportions():
        try:
            config = small_config(config_class, sizes, changes)
            return build(cls, config)
        except Exception as error:  # noqa: BLE001 - other proportions may do
            reason = f"{type(error).__name__}: {str(error).strip()[:200]}"
            failures.append(reason)
            if len(failures) == SAME and len(set(failures)) == 1:  # no proportion has a part in it
                break
    raise CantBuild("; ".join(list(dict.fromkeys(failures))[:3]))


def proportions() -> Iterator[dict[str, Any]]:
    yield FIRST
    for other in OTHERS:
        yield {**FIRST, **other}
    for number, one in enumerate(OTHERS):
        for other in OTHERS[number + 1 :]:
            yield {**FIRST, **one, **other}


def small_config(
    config_class: type[PreTrainedConfig], sizes: dict[str, Any], wanted: dict[str, Any]
) -> PreTrainedConfig:
    """The config of a small model, made by the class from the fields that differ from its default."""
    changes = _changes(config_class(), sizes) | wanted
    config = config_class(**changes)
    for part in (config, *_parts(config)):
        for name in ("eos_token_id", "forced_eos_token_id", "forced_bos_token_id", "suppress_tokens"):
            if getattr(part, name, None) is not None:
                setattr(part, name, None)
    return config


def build(cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """A model with weights of one spread, tried on a short text and on one that is longer than any window."""
    with torch.device("meta"):
        count = sum(p.numel() for p in cls(copy.deepcopy(config)).parameters())
    if count > MOST_PARAMETERS:
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
    for name, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            changes[name] = _changes(value, sizes | {"layers": 2} if kinds else sizes)
            continue
        if name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            changes[name] = _rope(value, sizes)
            continue
        if name == "attention_types":
            changes[name] = [[kinds, layers // len(kinds)] for kinds, _ in value]
            continue
        if isinstance(value, (list, tuple)) and value and kinds and len(value) == len(kinds) and depth is not None:
            changes[name] = type(value)(_small(name, value[at], sizes) for at in chosen)
            continue
        part = _part(name)
        if value is None and sizes.get("filled") and part in ("head", "kv", "experts", "chosen", "heads"):
            changes[name] = sizes[part]
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if part == "placeholder":
            changes[name], placeholder = placeholder, placeholder + 1
        elif part is not None and not (part in SCALES and value <= SCALES[part]):
            changes[name] = sizes[part]
    if "kv_lora_rank" not in fields and "head_dim" in changes and fields.get("num_attention_heads") is None:
        del changes["head_dim"]
    changes |= HINTS.get(type(config).__name__, {})
    return {n: v for n, v in changes.items() if n in accepted or "kwargs" in accepted or n in type(config).__dict__}


#: numbers so small already stay as they are: a window of 0 is none, one group is one
SCALES = {
    "window": 0,
    "shared": 0,
    "chunk": 0,
    "kv": 1,
    "layers": 0,
    "rank": 0,
    "chosen": 1,
    "experts": 1,
    "inner": 0,
    "hidden": 0,
}


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
        if sizes["sections"] < 3:
            changed["mrope_section"] = [1, 1, 0]
    return changed
