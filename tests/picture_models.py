"""Small models that read pictures, with random weights, and prompts with pictures in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from codebook_models import with_random_weights
from torch import Tensor

VOCABULARY, PICTURE = 120, 110
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
VISION = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}


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


def _qwen_picture(side: int, generator: torch.Generator) -> tuple[int, dict[str, Tensor]]:
    grid = torch.tensor([[1, 4, side]])
    return side, {"pixel_values": torch.randn(4 * side, 96, generator=generator), "image_grid_thw": grid}


def _square(size: int, num_tokens: int, *, stacked: bool = False):
    def picture(side: int, generator: torch.Generator) -> tuple[int, dict[str, Tensor]]:
        pixels = torch.randn(1, 3, size, size, generator=generator)
        return num_tokens, {"pixel_values": pixels[None] if stacked else pixels}

    return picture


#: how to build each model, and its picture: (tokens, what the processor makes of it)
MODELS = {
    "Qwen2.5-VL": (qwen2_5_vl, _qwen_picture),
    "Qwen3-VL": (qwen3_vl, _qwen_picture),
    "LLaVA": (llava, _square(8, 4)),
    "Gemma 3": (gemma3, _square(8, 4)),
    "Idefics 3": (idefics3, _square(16, 4, stacked=True)),
    "SmolVLM": (smolvlm, _square(16, 4, stacked=True)),
}


def inputs(name: str, text: Sequence[int], picture: int | None) -> dict[str, Tensor]:
    """A prompt of a picture (by the seed it is drawn from; None is none) and a text, as a processor would make it."""
    ids, extra = [1, *text], {}
    if picture is not None:
        num_tokens, extra = MODELS[name][1](4 if picture % 2 else 8, torch.Generator().manual_seed(picture))
        ids = [1, 112, *[PICTURE] * num_tokens, 113, *text]
    return with_masks(name, {**extra, "input_ids": torch.tensor([ids])})


def with_masks(name: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with what has one entry a token."""
    ids = given["input_ids"]
    types = {"Qwen2.5-VL": "mm_token_type_ids", "Qwen3-VL": "mm_token_type_ids", "Gemma 3": "token_type_ids"}
    own = {types[name]: (ids == PICTURE).long()} if name in types else {}
    return {**given, "attention_mask": torch.ones_like(ids), **own}
