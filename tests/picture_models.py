"""Small models that read pictures, with random weights, and prompts with pictures in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from codebook_models import janus, with_random_weights
from torch import Tensor

from counterpoint import formulas
from counterpoint.guide import Branch, Guide

VOCABULARY, PICTURE = 120, 110
BANNED = [PICTURE, 111, 112, 113]  # a generated place for a picture would want one
#: what is asked of each model: a text with picture 1 against each of these, under each guide, for so many tokens
STEPS, ASKED = 24, [5, 6, 7]
NEGATIVES = {
    "other picture": (ASKED, 3),
    "larger picture": (ASKED, 2),
    "no picture": (ASKED, None),
    "other text": ([8, 9], 1),
}
GUIDES = [Guide(scale=3.0), Guide(scale=3.0, space="prob", plausibility=0.1), Guide(scale=0.0)]
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
DRAWN = range(60, 68)  # tokens of which Emu3 makes pictures
VISION = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
_QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 4,
}
_QWEN_IDS = {"image_token_id": PICTURE, "video_token_id": 111, "vision_start_token_id": 112, "vision_end_token_id": 113}


def _built(name: str, config: Any) -> Any:
    model = with_random_weights(getattr(transformers, f"{name}ForConditionalGeneration")(config))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def qwen2_5_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 4,
    }
    return _built(
        "Qwen2_5_VL",
        transformers.Qwen2_5_VLConfig(
            text_config={**TEXT, "rope_parameters": rope},
            vision_config={**vision, "window_size": 16, "fullatt_block_indexes": [1]},
            image_token_id=PICTURE,
            video_token_id=111,
            vision_start_token_id=112,
            vision_end_token_id=113,
        ),
    )


def qwen3_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 4,
    }
    return _built(
        "Qwen3VL",
        transformers.Qwen3VLConfig(
            text_config={**TEXT, "rope_parameters": rope},
            vision_config={**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
            image_token_id=PICTURE,
            video_token_id=111,
            vision_start_token_id=112,
            vision_end_token_id=113,
        ),
    )


def llava() -> Any:
    vision = {"model_type": "clip_vision_model", **VISION, "image_size": 8, "patch_size": 4}
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config=vision,
        image_token_id=PICTURE,
        vision_feature_layer=-1,
    )
    return _built("Llava", config)


def gemma3() -> Any:
    config = transformers.Gemma3Config(
        text_config={**TEXT, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        vision_config={**VISION, "image_size": 8, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_id=PICTURE,
        boi_token_id=112,
        eoi_token_id=113,
    )
    return _built("Gemma3", config)


def idefics3() -> Any:
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **TEXT},
        vision_config={**VISION, "image_size": 16, "patch_size": 4},
        image_token_id=PICTURE,
        scale_factor=2,
        pad_token_id=0,
    )
    return _built("Idefics3", config)


def smolvlm() -> Any:
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={**VISION, "image_size": 16, "patch_size": 4},
        image_token_id=PICTURE,
        scale_factor=2,
        pad_token_id=0,
    )
    return _built("SmolVLM", config)


def qwen2_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4}
    text = {**TEXT, "rope_parameters": rope}
    return _built("Qwen2VL", transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **_QWEN_IDS))


def qwen3_5() -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    text = {
        **TEXT,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "rope_parameters": rope,
    }
    vision = {**_QWEN_VISION, "num_position_embeddings": 64}
    return _built("Qwen3_5", transformers.Qwen3_5Config(text_config=text, vision_config=vision, **_QWEN_IDS))


def glm4v() -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    config = transformers.Glm4vConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**_QWEN_VISION, "image_size": 32, "spatial_merge_size": 2},
        image_token_id=PICTURE,
        video_token_id=111,
        image_start_token_id=114,
        image_end_token_id=115,
        video_start_token_id=116,
        video_end_token_id=117,
    )
    return _built("Glm4v", config)


def internvl() -> Any:
    vision = {**VISION, "image_size": [16, 16], "patch_size": [4, 4], "use_absolute_position_embeddings": True}
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT}, vision_config=vision, image_token_id=PICTURE, downsample_ratio=0.5
    )
    return _built("InternVL", config)


def mistral3() -> Any:
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **TEXT, "sliding_window": 8},
        vision_config={"model_type": "pixtral", **VISION, "head_dim": 8, "image_size": 16, "patch_size": 4},
        image_token_id=PICTURE,
        spatial_merge_size=2,
    )
    return _built("Mistral3", config)


def llava_next() -> Any:
    config = transformers.LlavaNextConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 8, "patch_size": 4},
        image_token_id=PICTURE,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[8, 8], [8, 16], [16, 8]],
    )
    return _built("LlavaNext", config)


def aya_vision() -> Any:
    text = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    config = transformers.AyaVisionConfig(
        text_config={"model_type": "cohere2", **TEXT, **text},
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 16, "patch_size": 4},
        image_token_id=PICTURE,
        vision_feature_layer=-1,
        downsample_factor=2,
    )
    return _built("AyaVision", config)


def lfm2_vl() -> Any:
    config = transformers.Lfm2VlConfig(
        text_config={"model_type": "lfm2", **TEXT, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
        vision_config={"model_type": "siglip2_vision_model", **VISION, "num_patches": 16, "patch_size": 4},
        image_token_id=PICTURE,
        downsample_factor=2,
    )
    return _built("Lfm2Vl", config)


def chameleon() -> Any:
    vq = {
        "embed_dim": 8,
        "num_embeddings": 8,
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "resolution": 8,
    }
    codes = {f"IMGIMG{chr(ord('A') + code)}Z": code + 60 for code in range(8)}
    return _built(
        "Chameleon",
        transformers.ChameleonConfig(**TEXT, vocabulary_map={"<image>": PICTURE, **codes}, vq_config=vq),
    )


def emu3() -> Any:
    vq = {
        "codebook_size": 8,
        "embed_dim": 8,
        "latent_channels": 8,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "temporal_downsample_factor": 1,
    }
    codes = {f"<|visual token {code:06}|>": DRAWN[code] for code in range(8)}
    vocabulary = {"<image>": PICTURE, "<|extra_200|>": 118, **codes}
    return _built("Emu3", transformers.Emu3Config(text_config={**TEXT}, vq_config=vq, vocabulary_map=vocabulary))


def janus_understanding() -> Any:
    return janus(image_token_id=PICTURE, vocab_size=VOCABULARY, eos_token_id=None)


def qwen2_audio() -> Any:
    audio = {
        "model_type": "qwen2_audio_encoder",
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 37,
        "num_mel_bins": 8,
        "max_source_positions": 8,
    }
    config = transformers.Qwen2AudioConfig(
        text_config={"model_type": "qwen2", **TEXT}, audio_config=audio, audio_token_index=PICTURE
    )
    return _built("Qwen2Audio", config)


def voxtral() -> Any:
    audio = {"model_type": "voxtral_encoder", **VISION, "intermediate_size": 128, "num_mel_bins": 8}
    config = transformers.VoxtralConfig(
        text_config={"model_type": "llama", **TEXT},
        audio_config={**audio, "max_source_positions": 8},
        audio_token_id=PICTURE,
    )
    return _built("Voxtral", config)


def mllama() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 4,
        "image_size": 8,
        "patch_size": 4,
        "vision_output_dim": 64,
        "intermediate_layers_indices": [0],
        "max_num_tiles": 1,
        "supported_aspect_ratios": [[1, 1]],
    }
    config = transformers.MllamaConfig(
        text_config={**TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1], "rope_parameters": rope},
        vision_config=vision,
        image_token_index=PICTURE,
    )
    return _built("Mllama", config)


def paligemma() -> Any:
    config = transformers.PaliGemmaConfig(
        text_config={"model_type": "gemma", **TEXT},
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 8, "patch_size": 4},
        image_token_id=PICTURE,
        projection_dim=32,
        hidden_size=32,
    )
    return _built("PaliGemma", config)


def _qwen_picture(side: int, generator: torch.Generator) -> tuple[int, dict[str, Tensor]]:
    grid = torch.tensor([[1, 4, side]])
    return side, {"pixel_values": torch.randn(4 * side, 96, generator=generator), "image_grid_thw": grid}


def _square(size: int, num_tokens: int, *, stacked: bool = False):
    def picture(side: int, generator: torch.Generator) -> tuple[int, dict[str, Tensor]]:
        pixels = torch.randn(1, 3, size, size, generator=generator)
        return num_tokens, {"pixel_values": pixels[None] if stacked else pixels}

    return picture


def _with(num_tokens: int, shapes: dict[str, tuple[int, ...]], **others: Any):
    """A picture, or a sound, of numbers of these shapes."""

    def picture(side: int, generator: torch.Generator) -> tuple[int, dict[str, Tensor]]:
        numbers = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        return num_tokens, {**numbers, **{name: torch.tensor(value) for name, value in others.items()}}

    return picture


#: how to build each model, and its picture: (tokens, what the processor makes of it)
MODELS = {
    "Qwen2.5-VL": (qwen2_5_vl, _qwen_picture),
    "Qwen3-VL": (qwen3_vl, _qwen_picture),
    "LLaVA": (llava, _square(8, 4)),
    "Gemma 3": (gemma3, _square(8, 4)),
    "Idefics 3": (idefics3, _square(16, 4, stacked=True)),
    "SmolVLM": (smolvlm, _square(16, 4, stacked=True)),
    "Janus": (janus_understanding, _square(20, 25)),
}
#: others of their kind, some of which hear
MORE = {
    "Qwen2-VL": (qwen2_vl, _qwen_picture),
    "Qwen3.5": (qwen3_5, _qwen_picture),
    "GLM-4V": (glm4v, _qwen_picture),
    "InternVL": (internvl, _square(16, 4)),
    "Mistral 3": (mistral3, _with(4, {"pixel_values": (1, 3, 16, 16)}, image_sizes=[[16, 16]])),
    "LLaVA-NeXT": (llava_next, _with(10, {"pixel_values": (1, 2, 3, 8, 8)}, image_sizes=[[8, 8]])),
    "Aya Vision": (aya_vision, _square(16, 4)),
    "LFM2-VL": (
        lfm2_vl,
        _with(4, {"pixel_values": (1, 16, 48)}, spatial_shapes=[[4, 4]], pixel_attention_mask=[[1] * 16]),
    ),
    "Chameleon": (chameleon, _square(8, 16)),
    "Emu3": (emu3, _with(20, {"pixel_values": (1, 3, 8, 8)}, image_sizes=[[8, 8]])),
    "Qwen2-Audio": (qwen2_audio, _with(4, {"input_features": (1, 8, 16)}, feature_attention_mask=[[1] * 16])),
    "Voxtral": (voxtral, _with(2, {"input_features": (1, 8, 16)})),
}
#: refused by the engine
REFUSED = {
    "mllama": (
        mllama,
        _with(1, {"pixel_values": (1, 1, 1, 3, 8, 8)}, aspect_ratio_ids=[[1]], aspect_ratio_mask=[[[1]]]),
    ),
    "PaliGemma": (paligemma, _square(8, 4)),
}
ALL = {**MODELS, **MORE, **REFUSED}
#: what tells pictures from text, one number for each token
TYPES = {
    **dict.fromkeys(["Qwen2.5-VL", "Qwen3-VL", "Qwen2-VL", "Qwen3.5", "GLM-4V"], "mm_token_type_ids"),
    "Gemma 3": "token_type_ids",
}


def inputs(name: str, text: Sequence[int], picture: int | None) -> dict[str, Tensor]:
    """A prompt of a picture (by the seed it is drawn from; None is none) and a text, as a processor would make it."""
    ids, extra = [1, *text], {}
    if picture is not None:
        num_tokens, extra = ALL[name][1](4 if picture % 2 else 8, torch.Generator().manual_seed(picture))
        ids = [1, 112, *[PICTURE] * num_tokens, 113, *text]
    return with_masks(name, {**extra, "input_ids": torch.tensor([ids])})


def with_masks(name: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with what has one entry a token."""
    ids = given["input_ids"]
    own = {TYPES[name]: (ids == PICTURE).long()} if name in TYPES else {}
    if name == "mllama" and "pixel_values" in given:
        own["cross_attention_mask"] = torch.ones(1, ids.shape[1], 1, 1, dtype=torch.long)
    if name == "PaliGemma":
        own["token_type_ids"] = torch.zeros_like(ids)
    return {**given, "attention_mask": torch.ones_like(ids), **own}


def forget(model: Any) -> None:
    """What a model keeps on its modules of the last picture."""
    for module in model.modules():
        if "rope_deltas" in vars(module):
            module.rope_deltas = None


@torch.no_grad()
def stateless(
    name: str,
    model: Any,
    branches: Sequence[dict[str, Tensor]],
    guide: Guide,
    *,
    num_steps: int,
    choose: Callable[[Tensor, Tensor], int] = lambda scores, _: int(scores.argmax()),
    weights: Sequence[float] | None = None,
) -> list[int]:
    """What the model writes where each step reads all branches anew, pictures and all.

    Args:
        choose: from (V,) guided log-probabilities, and those of the first branch, to a token.
        weights: of the further branches; None is the guide's for one.
    """
    ids: list[int] = []
    weights = guide.weights([Branch(None)]) if weights is None else weights
    for _ in range(num_steps):
        rows = []
        for branch in branches:
            forget(model)
            whole = {**branch, "input_ids": torch.cat([branch["input_ids"], torch.tensor([ids], dtype=torch.long)], 1)}
            rows.append(formulas.log_probs(model(**with_masks(name, whole), use_cache=False).logits[:, -1]))
        plausibility = torch.tensor([guide.plausibility]) if guide.plausibility else None
        scores = formulas.guided(
            rows[0],
            torch.stack(rows[1:], dim=1),
            torch.tensor([weights]),
            space=guide.space,
            plausibility=plausibility,
        )
        scores[:, BANNED] = float("-inf")
        ids.append(choose(scores[0], rows[0][0]))
    return ids
