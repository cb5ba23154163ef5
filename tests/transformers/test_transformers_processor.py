from __future__ import annotations

import torch
from conformance import oracle
from conformance.architectures import ARCHITECTURES, next_logits
from transformers import LogitsProcessorList

from counterpoint.guide import Guide
from counterpoint.transformers import GuidanceLogitsProcessor

PROMPT = torch.tensor([[7, 12, 9, 33]])
NEGATIVE = torch.tensor([[40, 8, 66, 13, 27, 5]])
ASK = {"max_new_tokens": 16, "do_sample": False}


def test_used_for_a_prompt_that_continues_the_last_one() -> None:
    """The second prompt is the whole first output, so that ids alone do not tell where it begins."""
    model, guide = ARCHITECTURES["gpt2"].model(), Guide(scale=3.0)
    processor = GuidanceLogitsProcessor(model, guide, negative_prompt_ids=NEGATIVE)
    first = model.generate(PROMPT, logits_processor=LogitsProcessorList([processor]), **ASK)
    second = model.generate(first, logits_processor=LogitsProcessorList([processor]), **ASK)
    fresh = GuidanceLogitsProcessor(model, guide, negative_prompt_ids=NEGATIVE)
    assert torch.equal(second, model.generate(first, logits_processor=LogitsProcessorList([fresh]), **ASK))


def test_in_a_loop_of_ones_own() -> None:
    model, guide = ARCHITECTURES["gpt2"].model(), Guide(scale=3.0)
    processor = GuidanceLogitsProcessor(model, guide, negative_prompt_ids=NEGATIVE)
    for prompt in (PROMPT, PROMPT[:, :2], PROMPT[:, 1:]):
        ids = prompt
        for _ in range(6):
            scores = processor(ids, model(ids).logits[:, -1])
            generated = tuple(ids[0, prompt.shape[1] :].tolist())
            cond, negative = (next_logits(model, tuple(p[0].tolist()), generated) for p in (prompt, NEGATIVE))
            assert torch.allclose(scores[0], oracle.guided(cond, negative, guide).float(), atol=1e-3)
            ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], 1)
    processor.reset()
    assert processor(ids, model(ids).logits[:, -1]).shape == (1, 120)


def test_the_prompt_len_of_the_caller() -> None:
    model, guide = ARCHITECTURES["gpt2"].model(), Guide(scale=3.0)
    processor = GuidanceLogitsProcessor(model, guide, negative_prompt_ids=NEGATIVE, prompt_len=2)
    scores = processor(PROMPT, model(PROMPT).logits[:, -1])
    cond = next_logits(model, tuple(PROMPT[0].tolist()), ())
    negative = next_logits(model, tuple(NEGATIVE[0].tolist()), (9, 33))
    assert torch.allclose(scores[0], oracle.guided(cond, negative, guide).float(), atol=1e-3)


def test_constrained_beams() -> None:
    """Only some tokens are allowed at each step; the beams are those of a processor that keeps nothing."""

    class Stateless(GuidanceLogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.reset()
            return super().__call__(input_ids, scores)

    model, guide = ARCHITECTURES["llama"].model(), Guide(scale=3.0)
    ask = dict(
        ASK,
        num_beams=4,
        num_return_sequences=2,
        prefix_allowed_tokens_fn=lambda _batch, ids: range(20 + len(ids) % 2, 90, 2),
    )
    found = [
        model.generate(
            PROMPT.repeat(2, 1),
            logits_processor=LogitsProcessorList([kind(model, guide, negative_prompt_ids=NEGATIVE)]),
            **ask,
            use_cache=cached,
        )
        for kind, cached in ((GuidanceLogitsProcessor, True), (Stateless, False))
    ]
    assert torch.equal(*found)


def test_an_assistant_of_its_own() -> None:
    """A smaller model drafts; what it proposes is checked under guidance."""
    model, assistant = ARCHITECTURES["llama"].model(), ARCHITECTURES["qwen3"].model()
    processor = GuidanceLogitsProcessor(model, Guide(scale=3.0), negative_prompt_ids=NEGATIVE)
    plain = model.generate(PROMPT, logits_processor=LogitsProcessorList([processor]), **ASK)
    drafted = model.generate(
        PROMPT, logits_processor=LogitsProcessorList([processor]), assistant_model=assistant, **ASK
    )
    assert torch.equal(plain, drafted)


def test_sampling_beside_drafting_is_repeatable() -> None:
    model, assistant = ARCHITECTURES["llama"].model(), ARCHITECTURES["qwen3"].model()
    found = []
    for _ in range(2):
        torch.manual_seed(4)
        processor = GuidanceLogitsProcessor(model, Guide(scale=2.0), negative_prompt_ids=NEGATIVE)
        found.append(
            model.generate(
                PROMPT,
                logits_processor=LogitsProcessorList([processor]),
                assistant_model=assistant,
                max_new_tokens=16,
                do_sample=True,
            )
        )
    assert torch.equal(*found)
