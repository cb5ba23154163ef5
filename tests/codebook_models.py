"""Small models with codebooks and random weights, and the slow loops that say what they should write."""

from __future__ import annotations

import types
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    CsmConfig,
    CsmForConditionalGeneration,
    DiaConfig,
    DiaForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedModel,
)
from transformers.generation.logits_process import (
    DiaEOSChannelFilterLogitsProcessor,
    DiaEOSDelayPatternLogitsProcessor,
)

from counterpoint import formulas
from counterpoint.guide import Branch, Guide

NUM_CODES = 64
T5 = {"vocab_size": 99, "d_model": 24, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
ENCODEC = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_size": NUM_CODES,
    "codebook_dim": 16,
    "upsampling_ratios": [2, 2],
    "sampling_rate": 16000,
    "target_bandwidths": [160.0],
}
DECODER = {"vocab_size": NUM_CODES, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 37, "num_attention_heads": 4}


def with_random_weights(model: PreTrainedModel) -> PreTrainedModel:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def _music(model_class: type, config_class: type, channels: int, **fields: object) -> PreTrainedModel:
    decoder = {
        **DECODER,
        "num_codebooks": 4 * channels,
        "audio_channels": channels,
        "pad_token_id": NUM_CODES,
        "bos_token_id": NUM_CODES,
    }
    config = config_class(
        text_encoder={"model_type": "t5", **T5},
        audio_encoder={"model_type": "encodec", **ENCODEC},
        decoder=decoder,
        **fields,
    )
    model = with_random_weights(model_class(config))
    settings = model.generation_config
    settings.pad_token_id = settings.bos_token_id = settings.decoder_start_token_id = NUM_CODES
    settings.guidance_scale, settings.max_length = 3.0, 20
    # The codes themselves, in place of a sound.
    model.audio_encoder.decode = lambda codes, **_: types.SimpleNamespace(audio_values=codes[0])
    return model


def musicgen(channels: int = 1) -> PreTrainedModel:
    return _music(MusicgenForConditionalGeneration, MusicgenConfig, channels)


def melody() -> PreTrainedModel:
    return _music(MusicgenMelodyForConditionalGeneration, MusicgenMelodyConfig, 1, num_chroma=12, chroma_length=5)


def dia() -> PreTrainedModel:
    common = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
        "intermediate_size": 37,
    }
    config = DiaConfig(
        encoder_config={**common, "num_key_value_heads": 4, "vocab_size": 99},
        decoder_config={
            **common,
            "num_key_value_heads": 2,
            "cross_num_attention_heads": 4,
            "cross_head_dim": 8,
            "cross_num_key_value_heads": 4,
            "cross_hidden_size": 32,
            "vocab_size": NUM_CODES,
            "num_channels": 3,
            "eos_token_id": 61,
            "pad_token_id": 62,
            "bos_token_id": 63,
        },
        delay_pattern=[0, 2, 3],
    )
    return with_random_weights(DiaForConditionalGeneration(config))


def janus(image_token_id: int = 98, vocab_size: int = 99, eos_token_id: int | None = 2) -> PreTrainedModel:
    config = JanusConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 37,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": eos_token_id,
        },
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 20,
            "patch_size": 4,
            "projection_dim": 32,
            "num_image_tokens": 25,
            "depth": 1,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": NUM_CODES,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
            "num_patches": 5,
            "num_hidden_layers": 1,
        },
        image_token_id=image_token_id,
    )
    model = with_random_weights(JanusForConditionalGeneration(config))
    settings = model.generation_config
    settings.pad_token_id, settings.bos_token_id, settings.generation_kwargs = 0, 1, {"boi_token_id": 5}
    return model


def csm() -> PreTrainedModel:
    common = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_codebooks": 4,
    }
    config = CsmConfig(
        **common,
        text_vocab_size=80,
        depth_decoder_config={**common, "backbone_hidden_size": 32},
        bos_token_id=1,
        pad_token_id=2,
        codebook_pad_token_id=60,
        audio_token_id=70,
        audio_eos_token_id=71,
    )
    return with_random_weights(CsmForConditionalGeneration(config))


@torch.no_grad()
def picture(model: PreTrainedModel, ids: Tensor, guide: Guide, *, num_steps: int, sampled: bool = False) -> Tensor:
    """What Janus draws; the negative is the prompt with all but its first and its picture's token blotted out."""
    blotted = ids.masked_fill((ids != 1) & (ids != 5), 0)
    codes = torch.zeros((len(ids), 0), dtype=torch.long)
    for _ in range(num_steps):
        logits = []
        for text in (ids, blotted):
            drawn = [
                model.prepare_embeddings_for_image_generation(codes[:, at : at + 1]) for at in range(codes.shape[1])
            ]
            embeds = torch.cat([model.get_input_embeddings()(text), *drawn], dim=1)
            states = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            logits.append(model.model.generation_head(states[:, -1]))
        scores = _guided(logits, guide.weights([Branch(None)]), guide)
        codes = torch.cat([codes, _choice(scores, sampled)[:, None]], dim=1)
    return codes


def inputs(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Token ids padded on the right, with their mask."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def _choice(scores: Tensor, sampled: bool) -> Tensor:
    return torch.multinomial(scores.softmax(-1), 1)[:, 0] if sampled else scores.argmax(-1)


def _guided(logits: Sequence[Tensor], weights: Sequence[float], guide: Guide) -> Tensor:
    cond, *others = map(formulas.log_probs, logits)
    return formulas.guided(
        cond,
        torch.stack(others, dim=1),
        torch.tensor([weights] * len(cond)),
        space=guide.space,
        plausibility=torch.full((len(cond),), guide.plausibility) if guide.plausibility else None,
        adaptive=guide.adaptive is not None,
    )


@torch.no_grad()
def music(
    model: PreTrainedModel,
    branches: Sequence[dict[str, Tensor]],
    *,
    weights: Sequence[float],
    guide: Guide,
    num_steps: int,
    sampled: bool = False,
) -> Tensor:
    """What MusicGen writes: each step reads every branch of every prompt anew. -> (B, C, T) codes."""
    num_prompts, num_codes = len(branches[0]["input_ids"]), model.decoder.num_codebooks
    ids = torch.full((num_prompts * num_codes, 1), NUM_CODES)
    ids, pattern = model.decoder.build_delay_pattern_mask(ids, pad_token_id=NUM_CODES, max_length=num_steps + 1)
    for _ in range(num_steps):
        read = model.decoder.apply_delay_pattern_mask(ids, pattern)
        logits = [
            torch.cat([_one(model, branch, read, row, num_codes) for row in range(num_prompts)]) for branch in branches
        ]
        ids = torch.cat([ids, _choice(_guided(logits, weights, guide), sampled)[:, None]], dim=1)
    ids = model.decoder.apply_delay_pattern_mask(ids, pattern)
    codes = ids[ids != NUM_CODES].reshape(num_prompts, num_codes, -1)
    if model.decoder.config.audio_channels == 1:
        return codes
    return torch.cat([codes[:, ::2], codes[:, 1::2]], dim=1)  # left, then right


def _one(model: PreTrainedModel, branch: dict[str, Tensor], read: Tensor, row: int, num_codes: int) -> Tensor:
    own = {name: value[row : row + 1] if len(value) > 1 else value for name, value in branch.items()}
    return model(**own, decoder_input_ids=read[row * num_codes : (row + 1) * num_codes]).logits[:, -1]


@torch.no_grad()
def speech(
    model: PreTrainedModel,
    branches: Sequence[dict[str, Tensor]],
    *,
    weights: Sequence[float],
    guide: Guide,
    num_steps: int,
    sampled: bool = False,
) -> Tensor:
    """What Dia writes without a sound to go on from. -> (B, T, C) codes."""
    config = model.config.decoder_config
    num_prompts, num_codes = len(branches[0]["input_ids"]), config.num_channels
    ids = torch.full((num_prompts * num_codes, 1), config.bos_token_id)
    ended = torch.zeros(len(ids), dtype=torch.bool)
    processors = [
        DiaEOSChannelFilterLogitsProcessor(num_channels=num_codes, eos_token_id=config.eos_token_id),
        DiaEOSDelayPatternLogitsProcessor(
            delay_pattern=model.config.delay_pattern,
            eos_token_id=config.eos_token_id,
            max_generation_len=num_steps + 1,
            device="cpu",
        ),
    ]
    for _ in range(num_steps):
        read = ids.reshape(num_prompts, num_codes, -1).transpose(1, 2).contiguous()
        logits = [
            torch.cat(
                [
                    model(
                        **{name: value[row : row + 1] if len(value) > 1 else value for name, value in branch.items()},
                        decoder_input_ids=read[row : row + 1],
                    ).logits[:, -1]
                    for row in range(num_prompts)
                ]
            )
            for branch in branches
        ]
        scores = _guided(logits, weights, guide)
        for processor in processors:
            scores = processor(ids, scores)
        chosen = _choice(scores, sampled).masked_fill(ended, config.pad_token_id)
        ended |= chosen == config.eos_token_id
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    return ids.reshape(num_prompts, num_codes, -1).transpose(1, 2)
