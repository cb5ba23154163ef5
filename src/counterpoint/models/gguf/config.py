"""The configuration of a GGUF file's model: transformers reads the header, and what it leaves out is filled in here.

A field that neither of the two understands is refused: a model without it would write other texts than its authors'.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.integrations import GGUF_CONFIG_MAPPING

from counterpoint.errors import ModelError
from counterpoint.models.gguf.file import GgufFile, dequantized

#: fields of an architecture that transformers' tables leave out, and their names in the configuration
ATTRIBUTES = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "context_length": "max_position_embeddings",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_weights_norm": "norm_topk_prob",
    "feed_forward_length": "n_inner",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
}
EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
#: fields that say nothing about the numbers, or that the weights' shapes tell as well
DESCRIPTIONS = {"vocab_size", "tensor_data_layout", "use_parallel_residual", "rope.scaling.finetuned"}
#: fields that transformers has no place for, with the value at which they change nothing
NEUTRAL = {
    "attention.causal": True, "attention.clamp_kqv": 0, "attention.max_alibi_bias": 0, "expert_count": 0,
    "expert_used_count": 0, "expert_weights_scale": 1, "expert_shared_count": 0, "embedding_scale": 1, "logit_scale": 1,
    "residual_scale": 1, "leading_dense_block_count": 0, "nextn_predict_layers": 0,
}  # fmt: skip


def read_config(file: GgufFile) -> PreTrainedConfig:
    """The configuration of the model in the file.

    Raises:
        ModelError: transformers can't read the architecture, or a field of it has no place in the configuration.
    """
    try:
        config = _of_transformers(file)
    except Exception as error:  # transformers raises many kinds for an architecture that it can't read
        raise ModelError(
            f"{file.shown!r} holds a model of the architecture {file.architecture!r}, which transformers "
            f"{transformers.__version__} can't read from GGUF; load it from the folder or the hub id of its original"
        ) from error
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{file.shown!r} has no tensor token_embd.weight, so it is no language model")
    config.vocab_size = int(embedding.shape[1])
    for name, own in GGUF_CONFIG_MAPPING["tokenizer"].items():
        setattr(config, own, file.fields.get(f"tokenizer.{name}"))  # a class's defaults are those of one checkpoint
    if _is_complete(file.architecture):
        return config
    if config.model_type == "mistral" and file.own("attention.sliding_window") is None:
        config.sliding_window = None  # transformers' default is that of the first Mistral
    table = GGUF_CONFIG_MAPPING.get(file.architecture) or GGUF_CONFIG_MAPPING.get(config.model_type) or {}
    prefix = f"{file.architecture}."
    left = {name.removeprefix(prefix): value for name, value in file.fields.items() if name.startswith(prefix)}
    idle = {"context_length", "feed_forward_length"}  # some tables give these a name that the model does not read
    known = {name for name in left if table.get(name) is not None}
    for name in known - idle:
        del left[name]
    _fill_in(config, left)
    for name in known & set(left):
        del left[name]
    _set_rotary(config, left, file)
    if left:
        name, value = next(iter(left.items()))
        raise ModelError(
            f"{file.shown!r} has {prefix}{name} = {value}, which transformers {transformers.__version__} has no place "
            f"for in {type(config).__name__}, so it would compute something else; load the model's original"
        )
    return config


def _is_complete(architecture: str) -> bool:
    """Whether transformers has a whole reader for the architecture, not only a table of names."""
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    return architecture in GGUF_CONFIG_ARCHS


def _of_transformers(file: GgufFile) -> PreTrainedConfig:
    # transformers reads files only, and takes seconds for a vocabulary. It is shown the header without one.
    with tempfile.TemporaryDirectory() as folder:
        writer = gguf.GGUFWriter(Path(folder, "header.gguf"), file.architecture)
        for name, types in file.types.items():
            if name.startswith(f"{file.architecture}.") or name == "general.name":
                writer.add_key_value(name, file.fields[name], types[0], sub_type=types[-1] if len(types) > 1 else None)
        writer.add_token_list([""])
        for name in file.tensors:
            writer.add_tensor(name, np.zeros(1, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return AutoConfig.from_pretrained(folder, gguf_file="header.gguf", local_files_only=True)


def _fill_in(config: PreTrainedConfig, left: dict[str, Any]) -> None:
    """Move what is plain from the fields that are left into the configuration."""
    for name, attribute in ATTRIBUTES.items():
        if name in left and hasattr(config, attribute) and not hasattr(config, f"use_{attribute}"):
            setattr(config, attribute, left.pop(name))
    for name in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        attribute = next((attribute for attribute in EPSILONS if hasattr(config, attribute)), None)
        if name in left and attribute is not None:
            setattr(config, attribute, left.pop(name))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    neutral = NEUTRAL | {
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.head_count_kv": config.num_attention_heads,
        "attention.scale": 1 / math.sqrt(head_dim),
    }
    for name in [name for name in left if name in neutral]:
        if isinstance(left[name], (int, float)) and math.isclose(left[name], neutral[name], rel_tol=1e-6):
            del left[name]
    if hasattr(config, "query_pre_attn_scalar"):  # llama.cpp's rule: one size of each Gemma has another scale
        own = config.hidden_size // config.num_attention_heads if config.num_hidden_layers in (46, 62) else head_dim
        scale = left.pop("attention.scale", own**-0.5)
        config.query_pre_attn_scalar = own if scale == own**-0.5 else scale**-2
    pattern = left.get("attention.sliding_window_pattern")
    if pattern is not None and hasattr(config, "layer_types"):
        del left["attention.sliding_window_pattern"]
        num = config.num_hidden_layers
        slides = pattern if isinstance(pattern, list) else [(layer + 1) % pattern != 0 for layer in range(num)]
        config.layer_types = ["sliding_attention" if own else "full_attention" for own in slides]
    for name in DESCRIPTIONS & set(left):
        del left[name]


def _set_rotary(config: PreTrainedConfig, left: dict[str, Any], file: GgufFile) -> None:
    """Move the fields of rotary positions into `rope_parameters`."""
    if getattr(config, "rope_parameters", None) is None:
        return
    nested = "full_attention" in config.rope_parameters
    whole = config.rope_parameters["full_attention"] if nested else config.rope_parameters
    if "rope.freq_base" in left:
        whole["rope_theta"] = left.pop("rope.freq_base")
    if nested and "rope.freq_base_swa" in left:
        config.rope_parameters["sliding_attention"]["rope_theta"] = left.pop("rope.freq_base_swa")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = left.pop("rope.dimension_count", head_dim)
    if turned != head_dim:
        whole["partial_rotary_factor"] = turned / head_dim
        if hasattr(config, "partial_rotary_factor"):
            config.partial_rotary_factor = turned / head_dim
    scaling = {name: left[f"rope.scaling.{name}"] for name in ("type", "factor") if f"rope.scaling.{name}" in left}
    kind, factor = scaling.get("type", "none"), scaling.get("factor", 1.0)
    original = left.get("rope.scaling.original_context_length")
    attention = left.get("rope.scaling.attn_factor")
    taken = {"type", "factor"}
    if kind == "linear":
        whole.update(rope_type="linear", factor=factor)
    elif kind == "yarn" and original is not None:
        whole.update(rope_type="yarn", factor=factor, original_max_position_embeddings=original)
        for name, own in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
            if f"rope.scaling.{name}" in left:
                whole[own] = left.pop(f"rope.scaling.{name}")
        if attention is not None:
            whole["attention_factor"] = attention * (1 + 0.1 * math.log(factor))
        taken |= {"original_context_length", "attn_factor"}
    elif "rope_factors_long.weight" in file.tensors and original is not None:
        long, short = (file.tensors[f"rope_factors_{which}.weight"] for which in ("long", "short"))
        whole.update(
            rope_type="longrope",
            long_factor=dequantized(long.data, long.tensor_type).tolist(),
            short_factor=dequantized(short.data, short.tensor_type).tolist(),
            factor=config.max_position_embeddings / original,
            original_max_position_embeddings=original,
        )
        config.original_max_position_embeddings = original
        if attention is not None:
            whole["attention_factor"] = attention
        taken |= {"original_context_length", "attn_factor"}
    elif kind != "none" or factor != 1:
        return
    elif original in (None, config.max_position_embeddings) and attention in (None, 1):
        taken |= {"original_context_length", "attn_factor"}
    for name in taken:
        left.pop(f"rope.scaling.{name}", None)
