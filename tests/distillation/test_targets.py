"""Targets against a loop without any state: each context read whole at each token, combined by hand."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES

import counterpoint as cp
from counterpoint.contexts import ReadBranch
from counterpoint.distillation import targets
from counterpoint.distillation.answers import Example
from counterpoint.distillation.reading import Reading
from counterpoint.distillation.targets import target_of

PROMPT, NEGATIVE, OTHER = (5, 6, 7, 8), (9, 3), (4, 4, 20, 21, 22, 23)
ANSWER = tuple(11 + step % 37 for step in range(21))


def by_hand(hf, branches, weights, scale_step=lambda step: True):
    """g_i = log_softmax(l_c + sum_b w_b (l_b - l_c)) at each token of ANSWER."""
    made = []
    with torch.inference_mode():
        for step in range(len(ANSWER)):
            cond, *others = (
                hf(torch.tensor([[*context(step)]])).logits[0, -1].float().log_softmax(-1) for context in branches
            )
            pushed = cond + sum(w * (other - cond) for w, other in zip(weights, others))
            made.append(pushed.log_softmax(-1) if scale_step(step) else cond)
    return torch.stack(made)


def after(context):
    return lambda step: [*context, *ANSWER[:step]]


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_a_target_is_what_guidance_predicts_at_each_token(name, monkeypatch):
    monkeypatch.setattr(targets, "AT_ONCE", 8)
    hf = ARCHITECTURES[name].model()
    branches = (ReadBranch(NEGATIVE, -1.5), ReadBranch(OTHER, 0.75))
    example = Example(Reading(PROMPT, PROMPT, branches, cp.Guide(start=3, stop=18)), ANSWER)
    found = target_of(cp.Model(hf), example, top=0)
    want = by_hand(hf, [after(PROMPT), after(NEGATIVE), after(OTHER)], [-1.5, 0.75], lambda step: 3 <= step < 18)
    assert found.ids is None and torch.allclose(found.logprobs, want, atol=2e-4)
    few = target_of(cp.Model(hf), example, top=5)
    best = want.topk(5)
    assert torch.allclose(few.logprobs, best.values, atol=2e-4)
    assert torch.allclose(few.rest.exp(), 1 - best.values.exp().sum(-1), atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_suffix_follows_all_that_was_written(name):
    hf = ARCHITECTURES[name].model()
    suffix = (30, 31)
    example = Example(Reading(PROMPT, PROMPT, (ReadBranch(suffix, -1.0, is_suffix=True),), cp.Guide()), ANSWER)
    want = by_hand(hf, [after(PROMPT), lambda step: [*PROMPT, *ANSWER[:step], *suffix]], [-1.0])
    assert torch.allclose(target_of(cp.Model(hf), example, top=0).logprobs, want, atol=2e-4)


def test_a_branch_that_another_model_reads():
    hf, other = ARCHITECTURES["llama"].model(), cp.Model(ARCHITECTURES["gpt2"].model())
    example = Example(Reading(PROMPT, PROMPT, (ReadBranch(NEGATIVE, -0.5, model=other),), cp.Guide()), ANSWER)
    own = by_hand(hf, [after(PROMPT)], [])
    theirs = by_hand(other.hf, [after(NEGATIVE)], [])
    want = (own - 0.5 * (theirs - own)).log_softmax(-1)
    assert torch.allclose(target_of(cp.Model(hf), example, top=0).logprobs, want, atol=2e-4)
