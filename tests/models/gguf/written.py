"""Small GGUF files as llama.cpp's converter writes them, and the model of transformers that each must become."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers as hf
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from counterpoint.models.gguf.find import parts

CONTEXT = 96
CONTROL = ["<|end|>", "<|begin|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def alphabet() -> list[str]:
    """The byte alphabet of GPT-2: one character for each byte, in the order of the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


MERGES = ["Ġ t", "h e", "Ġt he", "o u", "Ġ a"]
TOKENS = [*CONTROL, *alphabet(), *("".join(merge.split(" ")) for merge in MERGES)]
VOCAB = len(TOKENS) + 7  # models pad their vocabulary


@dataclass(frozen=True, slots=True)
class Written:
    """An architecture in GGUF.

    Args:
        name: the architecture's name in GGUF.
        build: the model of transformers.
        fields: what the converter writes, by the name after the architecture's.
        to_file: from a weight of transformers to the converter's, by the name in the file.
        from_file: the way back.
    """

    name: str
    build: Callable[[], hf.PreTrainedModel]
    fields: Callable[[Any], dict[str, Any]]
    to_file: Callable[[Any, str, Tensor], Tensor] = lambda config, name, weight: weight
    from_file: Callable[[Any, str, Tensor], Tensor] = lambda config, name, weight: weight
    extra: dict[str, np.ndarray] = field(default_factory=dict)


def _common(config: Any) -> dict[str, Any]:
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", 0.0),
        "rope.freq_base": _theta(config),
    }


def _theta(config: Any) -> float:
    own = config.rope_parameters
    return float(own.get("full_attention", own)["rope_theta"])


def _heads(config: Any) -> dict[str, Any]:
    return {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}


def _pairs_to_halves(config: Any, name: str, weight: Tensor, *, back: bool) -> Tensor:
    """llama.cpp turns neighbours where transformers turns halves, so the converter sorts the rows of q and k anew."""
    if ".attn_q." not in name and ".attn_k." not in name:
        return weight
    heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
    half = weight.shape[0] // heads // 2
    split = (heads, half, 2) if back else (heads, 2, half)
    return weight.reshape(*split, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _transposed(config: Any, name: str, weight: Tensor) -> Tensor:
    return weight.t() if weight.ndim == 2 and ".attn_" in name or ".ffn_" in name and weight.ndim == 2 else weight


def _plus(by: int) -> Callable[[Any, str, Tensor], Tensor]:
    return lambda config, name, weight: weight + by if name.endswith("norm.weight") else weight


def _delta(name: str, weight: Tensor, *, back: bool) -> Tensor:
    """Qwen3.5's converter adds one to most norms, stores minus the exponential of A_log, and drops a dimension."""
    if name.endswith("norm.weight") and not name.endswith("ssm_norm.weight"):
        return weight - 1 if back else weight + 1
    if name.endswith("ssm_a"):
        return (-weight).log() if back else -weight.exp()
    if name.endswith("ssm_conv1d.weight"):
        return weight[:, None] if back else weight.squeeze(1)
    return weight


SMALL = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
HALVES = {
    "to_file": lambda config, name, weight: _pairs_to_halves(config, name, weight, back=False),
    "from_file": lambda config, name, weight: _pairs_to_halves(config, name, weight, back=True),
}


def _llama(**options: Any) -> Callable[[], hf.PreTrainedModel]:
    return lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL | options))


def _mixture(config: Any) -> dict[str, Any]:
    return {
        "expert_count": config.num_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
    }


MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES = {
    "llama": Written(
        "llama",
        _llama(tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5e4}),
        lambda c: _common(c) | {"vocab_size": VOCAB, "rope.dimension_count": c.head_dim},
        **HALVES,
    ),
    "llama, linear": Written(
        "llama",
        _llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
        lambda c: _common(c) | _heads(c) | {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        **HALVES,
    ),
    "mistral": Written(
        "llama",
        lambda: hf.MistralForCausalLM(hf.MistralConfig(**SMALL, head_dim=32, sliding_window=None)),
        lambda c: _common(c) | _heads(c) | {"rope.dimension_count": c.head_dim},
        **HALVES,
    ),
    "qwen2": Written(
        "qwen2",
        lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SMALL, tie_word_embeddings=True)),
        _common,
    ),
    "qwen2, yarn": Written(
        "qwen2",
        lambda: hf.Qwen2ForCausalLM(
            hf.Qwen2Config(
                **SMALL, rope_parameters={
                    "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 24
                },
            )
        ),
        lambda c: _common(c)
        | {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 24,
        },
    ),
    "qwen3": Written(
        "qwen3",
        lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SMALL, head_dim=32)),
        lambda c: _common(c) | _heads(c),
    ),
    "gemma2": Written(
        "gemma2",
        lambda: hf.Gemma2ForCausalLM(
            hf.Gemma2Config(
                **SMALL, head_dim=32, sliding_window=16, attn_logit_softcapping=20.0, final_logit_softcapping=10.0,
                query_pre_attn_scalar=32,
            )
        ),
        lambda c: _common(c)
        | _heads(c)
        | {
            "attention.sliding_window": 16,
            "attn_logit_softcapping": c.attn_logit_softcapping,
            "final_logit_softcapping": c.final_logit_softcapping,
        },
        _plus(1),
        _plus(-1),
    ),
    "gemma3": Written(
        "gemma3",
        lambda: hf.Gemma3ForCausalLM(
            hf.Gemma3TextConfig(
                **SMALL | {"num_hidden_layers": 6}, head_dim=32, sliding_window=16, query_pre_attn_scalar=32,
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            )
        ),
        lambda c: _common(c)
        | _heads(c)
        | {"attention.sliding_window": 16, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        _plus(1),
        _plus(-1),
    ),
    "phi3": Written(
        "phi3",
        lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SMALL, sliding_window=16)),
        lambda c: _common(c)
        | {
            "rope.dimension_count": 16,
            "attention.sliding_window": 16,
            "rope.scaling.original_context_length": CONTEXT,
        },
    ),
    "gpt2": Written(
        "gpt2",
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=CONTEXT, n_inner=96, bos_token_id=1,
                eos_token_id=0,
            )
        ),
        lambda c: {
            "block_count": c.n_layer,
            "context_length": c.n_positions,
            "embedding_length": c.n_embd,
            "feed_forward_length": c.n_inner,
            "attention.head_count": c.n_head,
            "attention.layer_norm_epsilon": c.layer_norm_epsilon,
        },
        _transposed,
        _transposed,
    ),
    "lfm2": Written(
        "lfm2",
        lambda: hf.Lfm2ForCausalLM(
            hf.Lfm2Config(
                **SMALL | {"num_hidden_layers": 3}, block_auto_adjust_ff_dim=False, conv_bias=False, conv_L_cache=3,
                layer_types=["conv", "full_attention", "conv"], tie_word_embeddings=True,
            )
        ),
        lambda c: _common(c)
        | {
            "attention.head_count_kv": [0, c.num_key_value_heads, 0],
            "attention.layer_norm_rms_epsilon": c.norm_eps,
            "shortconv.l_cache": c.conv_L_cache,
        },
        lambda config, name, weight: weight.squeeze(1) if ".shortconv.conv." in name else weight,
        lambda config, name, weight: weight[:, None] if ".shortconv.conv." in name else weight,
    ),
    "qwen35": Written(
        "qwen35",
        lambda: hf.Qwen3_5ForCausalLM(
            hf.Qwen3_5TextConfig(
                **SMALL | {"num_hidden_layers": 4}, head_dim=32, linear_num_key_heads=2, linear_num_value_heads=2,
                linear_key_head_dim=16, linear_value_head_dim=16, linear_conv_kernel_dim=4, full_attention_interval=4,
            )
        ),
        lambda c: _common(c)
        | _heads(c)
        | {
            "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 2, "ssm.time_step_rank": 2,
            "ssm.inner_size": 32, "full_attention_interval": 4, "rope.dimension_count": 8,
            "rope.dimension_sections": [2, 1, 1, 0],
        },
        lambda config, name, weight: _delta(name, weight, back=False),
        lambda config, name, weight: _delta(name, weight, back=True),
    ),
    "qwen2moe": Written(
        "qwen2moe",
        lambda: hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(**SMALL, **MIXTURE, shared_expert_intermediate_size=32)),
        lambda c: _common(c) | _mixture(c) | {"expert_shared_feed_forward_length": 32},
        lambda config, name, weight: weight.squeeze(0),
        lambda config, name, weight: weight[None] if "_shexp" in name and weight.ndim == 1 else weight,
    ),
    "qwen3moe": Written(
        "qwen3moe",
        lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**SMALL, **MIXTURE, head_dim=32, norm_topk_prob=True)),
        lambda c: _common(c) | _heads(c) | _mixture(c),
    ),
}  # fmt: skip

WIDE = Written(  # blocks of 256 weights fit its rows
    "llama",
    _llama(hidden_size=256, intermediate_size=256),
    lambda c: _common(c) | {"vocab_size": VOCAB, "rope.dimension_count": c.head_dim},
    **HALVES,
)


def model_and_file(written: Written, folder: Path, kind: Kind = Kind.F32, **options: Any):
    """A model with random weights, dequantized where they are quantized, and the file of it.

    Args:
        kind: of all weights with two dimensions or more; rows that blocks don't fit stay float32.
        options: of `write`.
    """
    torch.manual_seed(0)
    model = written.build().eval()
    tensors = {}
    with torch.no_grad():
        for weight in model.state_dict().values():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.1) + (weight.ndim == 1))
        tied = model.config.get_text_config().tie_word_embeddings
        names = gguf.get_tensor_name_map(_arch(written.name), model.config.num_hidden_layers)
        for name, weight in model.state_dict().items():
            if name == "lm_head.weight" and tied:
                continue
            for own, part in _pieces(name, weight):
                in_file = names.get_name(own, try_suffixes=(".weight", ".bias"))
                assert in_file, own
                converted = written.to_file(model.config, in_file, part).contiguous().numpy()
                raw, own_kind = quantized(converted, kind)
                tensors[in_file] = (raw, own_kind)
                read = torch.from_numpy(np.array(gguf.dequantize(raw, own_kind), np.float32)).reshape(converted.shape)
                part.copy_(written.from_file(model.config, in_file, read))
    tensors |= {name: (data, Kind.F32) for name, data in written.extra.items()}
    path = write(folder / "model.gguf", written.name, written.fields(model.config), tensors, **options)
    return model, path


def _pieces(name: str, weight: Tensor):
    """Parts of a weight as the file has them: the gates and the others of a mixture are two tensors there."""
    if name.endswith("mlp.experts.gate_up_proj"):
        gates, ups = weight.chunk(2, dim=1)
        stem = name.removesuffix("gate_up_proj")
        return [(f"{stem}gate_proj.weight", gates), (f"{stem}up_proj.weight", ups)]
    if name.endswith("mlp.experts.down_proj"):
        return [(f"{name}.weight", weight)]
    return [(name.replace("linear_attn.dt_bias", "linear_attn.dt_proj.bias"), weight)]


def _arch(name: str) -> gguf.MODEL_ARCH:
    return next(arch for arch, own in gguf.MODEL_ARCH_NAMES.items() if own == name)


def quantized(weight: np.ndarray, kind: Kind) -> tuple[np.ndarray, Kind]:
    size, size_bytes = gguf.GGML_QUANT_SIZES[kind]
    if weight.ndim < 2 or weight.shape[-1] % size:
        return weight.astype(np.float32), Kind.F32
    if kind in (Kind.Q4_K, Kind.Q6_K):  # gguf only reads these: any bytes are weights, but for the two or one scales
        blocks = np.random.default_rng(weight.size).integers(
            0, 256, (*weight.shape[:-1], weight.shape[-1] // size, size_bytes), np.uint8
        )
        scales = np.array([0.002, 0.02] if kind == Kind.Q4_K else [0.0005], np.float16).view(np.uint8)
        blocks[..., slice(0, 4) if kind == Kind.Q4_K else slice(-2, None)] = scales
        return blocks.reshape(*weight.shape[:-1], -1), kind
    return gguf.quantize(weight, kind), kind


def write(
    path: Path, name: str, fields: dict[str, Any], tensors: dict[str, Any], *, tokenizer: bool = True,
    template: str | None = TEMPLATE, num_parts: int = 1, **more: Any,
) -> Path:  # fmt: skip
    """Write a file, or several parts of equal numbers of tensors; the first one's path.

    Args:
        more: further fields, by their whole names, with underscores in the place of dots: `general__name`.
    """
    writer = gguf.GGUFWriter(path, name, split_max_tensors=-(-len(tensors) // num_parts) if num_parts > 1 else 0)
    writer.add_type(gguf.GGUFType.MODEL)
    for own, value in fields.items():
        _add(writer, f"{name}.{own}", value)
    for own, value in more.items():
        _add(writer, own.replace("__", "."), value)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(TOKENS)
        writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(1)
        writer.add_add_bos_token(True)
        if template:
            writer.add_chat_template(template)
    for own, (data, kind) in tensors.items():
        writer.add_tensor(own, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if num_parts == 1 else path.with_name(parts(f"{path.stem}-00001-of-{num_parts:05}.gguf")[0])


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(name, copy.copy(value))
