"""Small models with random weights, one for each kind of architecture, and what follows a history, without any cache."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

VOCAB = 120
PAD, BOS = 0, 1
IMAGE, VISION_START, VISION_END = 117, 118, 119
CONTEXT = 256
COMMON = {
    "vocab_size": VOCAB,
    "eos_token_id": None,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "tie_word_embeddings": False,
}
SMALL = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=CONTEXT,
    **COMMON,
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build a model, and what kind it is.

    Args:
        kind: "attention" (one forward for both branches), "recurrent" (a state that can't be rolled back), "encoder"
            (encoder-decoder) or "image".
        spread: standard deviation of the weights, so that logits differ and no branch repeats itself at once.
    """

    name: str
    build: Callable[[], hf.PreTrainedModel]
    kind: str = "attention"
    spread: float = 0.3

    def model(self) -> hf.PreTrainedModel:
        return _model(self.name)


def _llama() -> hf.PreTrainedModel:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL))


def _gpt2() -> hf.PreTrainedModel:
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **COMMON))


def _qwen3() -> hf.PreTrainedModel:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(head_dim=8, **SMALL))


def _gemma3() -> hf.PreTrainedModel:
    config = hf.Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 6}, head_dim=8, sliding_window=8)
    return hf.Gemma3ForCausalLM(config)


def _mistral() -> hf.PreTrainedModel:
    return hf.MistralForCausalLM(hf.MistralConfig(head_dim=8, sliding_window=8, **SMALL))


def _mixtral() -> hf.PreTrainedModel:
    return hf.MixtralForCausalLM(hf.MixtralConfig(num_local_experts=4, **SMALL))


def _bloom() -> hf.PreTrainedModel:
    return hf.BloomForCausalLM(hf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **COMMON))


def _mamba() -> hf.PreTrainedModel:
    return hf.MambaForCausalLM(hf.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **COMMON))


def _mamba2() -> hf.PreTrainedModel:
    config = hf.Mamba2Config(
        hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=16, **COMMON
    )
    return hf.Mamba2ForCausalLM(config)


def _bamba() -> hf.PreTrainedModel:
    config = hf.BambaConfig(
        **SMALL, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=16
    )
    return hf.BambaForCausalLM(config)


def _jamba() -> hf.PreTrainedModel:
    config = hf.JambaConfig(
        **SMALL,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=2,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    )
    return hf.JambaForCausalLM(config)


def _rwkv() -> hf.PreTrainedModel:
    return hf.RwkvForCausalLM(hf.RwkvConfig(hidden_size=32, num_hidden_layers=2, context_length=CONTEXT, **COMMON))


def _recurrent_gemma() -> hf.PreTrainedModel:
    config = hf.RecurrentGemmaConfig(
        **{**SMALL, "num_hidden_layers": 3}, lru_width=32, attention_window_size=16, conv1d_width=4
    )
    return hf.RecurrentGemmaForCausalLM(config)


def _t5() -> hf.PreTrainedModel:
    config = hf.T5Config(
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        decoder_start_token_id=PAD,
        **COMMON,
    )
    return hf.T5ForConditionalGeneration(config)


def _bart() -> hf.PreTrainedModel:
    config = hf.BartConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=CONTEXT,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
        **COMMON,
    )
    return hf.BartForConditionalGeneration(config)


def _qwen2_5_vl() -> hf.PreTrainedModel:
    text = {**SMALL, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 2,
        "window_size": 8,
        "fullatt_block_indexes": [1],
    }
    config = hf.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VOCAB + 1,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("gpt2", _gpt2),
        Architecture("llama", _llama),
        Architecture("qwen3", _qwen3),
        Architecture("gemma3", _gemma3, spread=0.2),
        Architecture("mistral", _mistral),
        Architecture("mixtral", _mixtral),
        Architecture("bloom", _bloom),
        Architecture("mamba", _mamba, kind="recurrent"),
        Architecture("mamba2", _mamba2, kind="recurrent"),
        Architecture("bamba", _bamba, kind="recurrent"),
        Architecture("jamba", _jamba, kind="recurrent"),
        Architecture("recurrent_gemma", _recurrent_gemma, kind="recurrent"),
        Architecture("rwkv", _rwkv, kind="recurrent"),
        Architecture("t5", _t5, kind="encoder", spread=0.7),
        Architecture("bart", _bart, kind="encoder", spread=0.7),
        Architecture("qwen2_5_vl", _qwen2_5_vl, kind="image"),
    )
}


@functools.cache
def _model(name: str) -> hf.PreTrainedModel:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = architecture.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, architecture.spread)
    if architecture.kind == "image":  # a generated placeholder would be a picture that is not there
        model.lm_head.register_forward_hook(_no_placeholders)
    model.generation_config.pad_token_id, model.generation_config.bos_token_id = PAD, BOS
    model.generation_config.eos_token_id = None
    return model


def _no_placeholders(_module: torch.nn.Module, _args: tuple, logits: Tensor) -> Tensor:
    return logits.index_fill(-1, torch.tensor([IMAGE, VISION_START, VISION_END]), -torch.inf)


def picture() -> dict[str, Tensor]:
    """One picture of 4 by 4 patches, 4 tokens after merging."""
    patches = torch.randn((16, 3 * 2 * 2 * 2), generator=torch.Generator().manual_seed(5))
    return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]])}


def picture_types(ids: Tensor) -> Tensor:
    """What transformers calls `mm_token_type_ids`: 1 for tokens of a picture."""
    return (ids == IMAGE).int()


def next_logits(model: hf.PreTrainedModel, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Tensor:
    """Logits after a prompt and what was generated, from the model alone: one row, no cache. -> (V,)."""
    if model.config.is_encoder_decoder:
        start = model.generation_config.decoder_start_token_id
        out = model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([(start, *generated)]), use_cache=False
        )
        return out.logits[0, -1].float()
    ids = torch.tensor([(*prompt, *generated)])
    extra: dict[str, Any] = {}
    if IMAGE in prompt and hasattr(model.config, "image_token_id"):
        extra = {**picture(), "mm_token_type_ids": picture_types(ids)}
    if hasattr(model, "model") and hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None
    return model(input_ids=ids, use_cache=False, **extra).logits[0, -1].float()
