"""What is refused before the first token, and that each message names the argument, the shapes and the way out."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from conformance.architectures import ARCHITECTURES, CONTEXT
from transformers import LogitsProcessorList

from counterpoint.errors import CounterpointError
from counterpoint.guide import Guide
from counterpoint.transformers import GuidanceLogitsProcessor, generate


def ids(*shape: int) -> torch.Tensor:
    return torch.arange(5, 5 + torch.Size(shape).numel()).reshape(shape) % 100 + 2


# name -> arguments beside input_ids of shape (2, 4), and what the message says
ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "batch sizes": (
        {"negative_prompt_ids": ids(3, 5)},
        r"negative_prompt_ids is of shape \(3, 5\).*2 prompt\(s\) in 2 row",
    ),
    "empty negative": (
        {"negative_prompt_ids": ids(2, 0)},
        r"negative_prompt_ids of shape \(2, 0\) is empty; .*beginning-of-text",
    ),
    "negative of padding": (
        {"negative_prompt_ids": ids(2, 3), "negative_prompt_attention_mask": torch.zeros((2, 3))},
        r"row 0 of negative_prompt_ids of shape \(2, 3\) is all padding",
    ),
    "mask of another shape": (
        {"negative_prompt_ids": ids(2, 3), "negative_prompt_attention_mask": torch.ones((2, 4))},
        r"negative_prompt_attention_mask has shape \(2, 4\) and negative_prompt_ids has \(2, 3\)",
    ),
    "mask that is a list": (
        {"negative_prompt_ids": ids(2, 3), "negative_prompt_attention_mask": [[1, 1, 1]] * 2},
        r"negative_prompt_attention_mask is a list; use a tensor of shape \(2, 3\)",
    ),
    "mask on another device": (
        {"negative_prompt_ids": ids(2, 3), "negative_prompt_attention_mask": torch.ones((2, 3), device="meta")},
        r"negative_prompt_attention_mask of shape \(2, 3\) is on meta",
    ),
    "no scale in the list": (
        {"guidance_scale": [], "negative_prompt_ids": ids(2, 3)},
        r"guidance_scale is \[\]; use a number",
    ),
    "mask alone": (
        {"negative_prompt_attention_mask": torch.ones((2, 4)), "guidance_scale": 1.5},
        "without negative_prompt_ids",
    ),
    "negative that is no matrix": ({"negative_prompt_ids": ids(5)}, r"of shape \(5,\)"),
    "negative of numbers that are no ids": ({"negative_prompt_ids": torch.ones((2, 3))}, "float32"),
    "unknown token": ({"negative_prompt_ids": torch.tensor([[5, 120]])}, "token id 120; this model's ids end at 119"),
    "negative longer than the context": (
        {"negative_prompt_ids": ids(1, CONTEXT + 1)},
        rf"negative_prompt_ids has a row of {CONTEXT + 1} tokens and the model's context holds {CONTEXT}",
    ),
    "negative that leaves no room": (
        {"negative_prompt_ids": ids(1, CONTEXT - 10), "max_new_tokens": 20},
        rf"negative_prompt_ids of shape \(1, {CONTEXT - 10}\).*{CONTEXT}.*input_ids of shape \(2, 4\)",
    ),
    "another device": (
        {"negative_prompt_ids": ids(1, 5).to("meta")},
        r"negative_prompt_ids of shape \(1, 5\) is on meta and input_ids of shape \(2, 4\) on cpu",
    ),
    "a guide too many": ({"negative_prompt_ids": ids(1, 5), "guide": [Guide()] * 3}, r"guide is of shape \(3,\)"),
    "a scale too many": (
        {"guidance_scale": [1.5, 2.0, 3.0]},
        r"guidance_scale is of shape \(3,\) and input_ids of 2 prompt",
    ),
    "two scales": (
        {"guidance_scale": 2.0, "guide": Guide(scale=3.0)},
        "guidance_scale is 2.0 and the guide's scale 3.0",
    ),
    "more guides than scales": (
        {"guidance_scale": [2.0, 3.0, 4.0], "guide": [Guide()] * 2},
        "guide has 2 values and guidance_scale 3",
    ),
    "a scale that is no number": ({"guidance_scale": float("nan")}, "guidance scale is nan"),
    "not a guide": ({"guide": 3.0}, "guide is 3.0; use a Guide"),
    "different negatives for beams": (
        {"negative_prompt_ids": ids(4, 5), "num_beams": 2},
        r"negative_prompt_ids of shape \(4, 5\) differs between the 2 beams",
    ),
    "right-padded prompts with hidden states": (
        {
            "guidance_scale": 2.0,
            "return_dict_in_generate": True,
            "output_hidden_states": True,
            "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        },
        r"input_ids are padded on the right \(attention_mask of shape",
    ),
    "contrastive search": (
        {"guidance_scale": 2.0, "penalty_alpha": 0.6, "top_k": 4},
        "contrastive_search has left transformers",
    ),
    "diverse beams": (
        {"guidance_scale": 2.0, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        "group_beam_search has left transformers",
    ),
    "constrained beams": (
        {"guidance_scale": 2.0, "num_beams": 2, "force_words_ids": [[5]]},
        "constrained_beam_search has left transformers",
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    arguments, message = ARGUMENTS[name]
    model = ARCHITECTURES["gpt2"].model()
    forwards = []
    hook = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        with pytest.raises(ValueError, match=message) as error:
            model.generate(
                ids(2, 4), **{"max_new_tokens": 4, "do_sample": False, **arguments}, custom_generate=generate
            )
    finally:
        hook.remove()
    assert isinstance(error.value, CounterpointError) and "\n" not in str(error.value)
    assert not forwards


def test_two_of_us() -> None:
    model = ARCHITECTURES["gpt2"].model()
    processors = LogitsProcessorList([GuidanceLogitsProcessor(model, Guide(scale=2.0))])
    with pytest.raises(ValueError, match="has a GuidanceLogitsProcessor already"):
        model.generate(ids(1, 4), max_new_tokens=4, logits_processor=processors, custom_generate=generate)


def test_transformers_guidance_beside_ours() -> None:
    model = ARCHITECTURES["gpt2"].model()
    processors = LogitsProcessorList([GuidanceLogitsProcessor(model, Guide(scale=2.0))])
    with pytest.raises(ValueError, match="guidance_scale is 3.0 beside a GuidanceLogitsProcessor"):
        model.generate(ids(1, 4), max_new_tokens=4, logits_processor=processors, guidance_scale=3.0)


def test_a_processor_of_no_guide() -> None:
    for guide in (3.0, [3.0], []):
        with pytest.raises(ValueError, match="; use a Guide, or a list of one for each prompt"):
            GuidanceLogitsProcessor(ARCHITECTURES["gpt2"].model(), guide)


def test_outside_of_model_generate() -> None:
    model = ARCHITECTURES["gpt2"].model()
    with pytest.raises(ValueError, match=re.escape("model.generate(..., custom_generate=generate)")):
        generate(model, ids(1, 4), LogitsProcessorList(), [], model.generation_config)


def test_an_encoder_decoder_has_no_default_negative() -> None:
    with pytest.raises(ValueError, match="pass negative_prompt_ids"):
        ARCHITECTURES["t5"].model().generate(ids(1, 4), max_new_tokens=4, guidance_scale=2.0, custom_generate=generate)


def test_a_picture_in_the_negative() -> None:
    model = ARCHITECTURES["qwen2_5_vl"].model()
    with pytest.raises(ValueError, match=r"placeholder 117 \(image_token_id\); a negative is text only"):
        GuidanceLogitsProcessor(model, Guide(scale=2.0), negative_prompt_ids=torch.tensor([[5, 117]]))


def test_the_prompt_as_embeddings_has_no_last_token() -> None:
    model = ARCHITECTURES["gpt2"].model()
    embeddings = model.get_input_embeddings()(ids(1, 4))
    with pytest.raises(ValueError, match="no token ids to take the last one of; pass negative_prompt_ids"):
        model.generate(inputs_embeds=embeddings, max_new_tokens=4, guidance_scale=2.0, custom_generate=generate)


@pytest.mark.parametrize("ours", [True, False])
def test_padding_that_ends_texts_needs_a_mask(ours: bool) -> None:
    model = ARCHITECTURES["llama"].model()
    prompts = torch.tensor([[9, 9, 7, 12], [5, 6, 7, 8]])
    asked: dict[str, Any] = {"pad_token_id": 9, "eos_token_id": 9, "do_sample": False, "max_new_tokens": 4}
    if ours:
        asked |= {"custom_generate": generate, "guidance_scale": 3.0, "negative_prompt_ids": ids(1, 5)}
    else:
        processor = GuidanceLogitsProcessor(model, Guide(scale=3.0), negative_prompt_ids=ids(1, 5))
        asked["logits_processor"] = LogitsProcessorList([processor])
    with pytest.raises(
        CounterpointError, match=r"rows of input_ids of shape \(2, 4\) begin or end with token 9.*pass att"
    ):
        model.generate(prompts, **asked)
    model.generate(prompts, attention_mask=(prompts != 9).long(), **asked)
    model.generate(prompts[:, 1:] * 0 + 7, **asked)  # nothing that could be padding


def test_padding_that_an_encoder_would_read_needs_a_mask() -> None:
    model = ARCHITECTURES["bart"].model()
    prompts = torch.tensor([[7, 12, 0, 0], [5, 6, 7, 8]])
    asked = {"custom_generate": generate, "guidance_scale": 3.0, "negative_prompt_ids": ids(1, 5), "max_new_tokens": 4}
    with pytest.raises(CounterpointError, match="token 0, which is padding, and which the encoder reads as text"):
        model.generate(prompts, do_sample=False, **asked)
    model.generate(prompts, attention_mask=(prompts != 0).long(), do_sample=False, **asked)
