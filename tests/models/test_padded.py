from __future__ import annotations

import pytest
import torch
from conformance.architectures import ARCHITECTURES, next_logits

from counterpoint.guide import Guide
from counterpoint.models.padded import PaddedHistories
from counterpoint.models.trials import abilities_of
from counterpoint.transformers import generate

PROMPTS = torch.tensor([[0, 0, 7, 12, 9, 33], [5, 6, 7, 8, 9, 10]])
ASK = {
    "attention_mask": (PROMPTS != 0).long(),
    "negative_prompt_ids": torch.tensor([[40, 8, 66, 13, 27, 5, 90, 41]]),
    "do_sample": False,
    "custom_generate": generate,
}


@torch.no_grad()
@pytest.mark.parametrize("name", ["bloom", "mamba", "jamba", "gpt2"])
def test_steps_have_the_logits_of_none_cached(name: str) -> None:
    """Rows grow together, change places, double, end, and begin again."""
    model = ARCHITECTURES[name].model()
    read = PaddedHistories(model)
    steps = [
        [(5, 6, 7), (8, 9)],
        [(8, 9, 3), (5, 6, 7, 4)],
        [(5, 6, 7, 4, 1), (5, 6, 7, 4, 1), (8, 9, 3, 2), (5, 6, 7, 4, 2)],
        [(8, 9, 3, 2, 11), (5, 6, 7, 4, 2, 60)],
        [(8, 9, 3, 2, 11, 12)],
        [(8, 9, 3, 2, 11, 12, 13, 14), (5,)],
    ]
    for texts in steps:
        want = torch.stack([next_logits(model, text, ()) for text in texts])
        assert torch.allclose(read.logits(texts), want, atol=1e-3)


def test_a_model_that_reads_padding_is_found_out() -> None:
    assert not abilities_of(ARCHITECTURES["rwkv"].model()).padded
    assert not abilities_of(ARCHITECTURES["recurrent_gemma"].model()).padded
    assert abilities_of(ARCHITECTURES["bloom"].model()).padded


@pytest.mark.parametrize("name", ["bloom", "mamba"])
@pytest.mark.parametrize("more", [{}, {"num_beams": 3}])
def test_one_forward_a_step(name: str, more: dict[str, int]) -> None:
    model, counts = ARCHITECTURES[name].model(), []
    for new_tokens in (2, 5, 15):  # the first makes the trial
        calls: list[int] = []
        hook = model.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        try:
            model.generate(PROMPTS, **ASK, **more, guidance_scale=3.0, max_new_tokens=new_tokens)
        finally:
            hook.remove()
        counts.append(len(calls))
    assert counts[2] - counts[1] == 10


@pytest.mark.parametrize("name", ["bloom", "jamba"])
def test_a_guide_that_starts_and_stops(name: str) -> None:
    """The negative comes late and leaves early; the tokens are those of two forwards."""
    model, guide = ARCHITECTURES[name].model(), Guide(scale=4.0, start=3, stop=8)
    joint = model.generate(PROMPTS, **ASK, guide=guide, max_new_tokens=14)
    apart = model.generate(PROMPTS, **ASK, guide=guide, max_new_tokens=14, return_dict_in_generate=True)
    assert torch.equal(joint, apart.sequences)
