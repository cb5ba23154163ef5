"""Guidance that can do nothing gets one verdict with the cause that is true, and every surface says it."""

import math
import warnings

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB

import counterpoint as cp
from counterpoint.contexts import Suffix
from counterpoint.engine import prepare
from counterpoint.errors import GuideError, NoEffectWarning
from counterpoint.guide import Guide, acting, no_effect
from counterpoint.vllm.params import read

PROMPT, OTHER = [5, 6, 7], [9, 8]


def verdict(guide, weights=(-1.0,), contexts=("other",), **limits):
    found = no_effect(guide, weights, contexts, "prompt", **limits)
    return None if found is None else found.field


@pytest.mark.parametrize(
    "guide, more, field",
    [
        (Guide(), {}, None),
        (Guide(start=4, stop=4), {}, "stop"),
        (Guide(start=8), {"num_tokens": 8}, "start"),
        (Guide(start=7), {"num_tokens": 8}, None),
        (Guide(gate=3.0), {"vocab_size": 20}, "gate"),
        (Guide(gate=2.9), {"vocab_size": 20}, None),
        (Guide(gate=3.0), {}, None),
        (Guide(plausibility=1), {"takes_best": True}, "plausibility"),
        (Guide(plausibility=1), {}, None),
        (Guide(plausibility=0.9), {"takes_best": True}, None),
        (Guide(scale=1), {"weights": (0.0,)}, "scale"),
        (Guide(scale=1, plausibility=0.1), {"weights": (0.0,)}, "scale"),
        (Guide(), {"weights": (0.0, 0.0), "contexts": ("a", "b")}, "weight"),
        (Guide(), {"contexts": ("prompt",)}, "negative"),
        (Guide(plausibility=0.1), {"contexts": ("prompt",)}, "negative"),
        (Guide(), {"weights": (-0.5, 0.5), "contexts": ("a", "a")}, "weight"),
        (Guide(), {"weights": (0.1, 0.2, -0.3), "contexts": ("a", "a", "a")}, "weight"),
        (Guide(), {"weights": (-0.5, 0.5), "contexts": ("a", "b")}, None),
        (Guide(), {"weights": (-0.5, 0.5, 2.0), "contexts": ("a", "a", "prompt")}, "weight"),
        (Guide(), {"weights": (-0.5, 0.5, 2.0), "contexts": ("a", "a", "b")}, None),
        (Guide(), {"weights": (), "contexts": ()}, None),
        (Guide(scale=1, plausibility=0.3), {"weights": (), "contexts": ()}, None),
        (Guide(scale=1, plausibility=0.3), {"weights": (), "contexts": (), "takes_best": True}, "plausibility"),
        (Guide(scale=1, plausibility=0.3, stop=0), {"weights": (), "contexts": ()}, "stop"),
        (Guide(scale=1, start=9), {"weights": (), "contexts": (), "num_tokens": 2}, None),  # asks for nothing
    ],
)
def test_the_verdict(guide, more, field):
    assert verdict(guide, **more) == field


def test_a_context_that_is_not_known_equals_no_other():
    assert no_effect(Guide(), [-0.5], [None]) is None
    assert acting([-0.5, 1.0], ["a", "b"]) == [True, True]


ASKED = [
    # the guide, what else of the call, and the cause
    ({"start": 2, "stop": 2}, {}, "starts and stops at token 2"),
    ({"start": 8}, {}, "starts at token 8 and the output has at most 8"),
    ({"gate": 30.0}, {}, rf"gate is 30.0 nats and the entropy of {VOCAB} tokens at most {math.log(VOCAB):.2f}"),
    ({"plausibility": 1.0}, {}, "plausibility 1 leaves"),
    ({"scale": 1}, {}, "scale is 1"),
    ({"scale": 1, "plausibility": 0.1}, {}, "scale is 1"),
    ({}, {"negative": PROMPT}, "equals the prompt"),
]


@pytest.fixture(scope="module")
def model():
    return cp.Model(ARCHITECTURES["gpt2"].model())


@pytest.mark.parametrize("fields, more, cause", ASKED)
def test_every_surface_says_the_cause(model, fields, more, cause):
    guide, negative = Guide(**fields), more.get("negative", OTHER)
    with pytest.warns(NoEffectWarning, match=cause):
        prepare(model, PROMPT, negative=negative, guide=guide, max_tokens=8, temperature=0).check(model)
    with pytest.warns(NoEffectWarning, match=cause):
        model.hf.generate(
            torch.tensor([PROMPT]),
            custom_generate=cp.transformers.generate,
            negative_prompt_ids=torch.tensor([negative]),
            guide=guide,
            max_new_tokens=8,
            do_sample=False,
        )
    if cause == "starts and stops at token 2":  # what can be told before the prompt is known
        with pytest.raises(GuideError, match=cause):
            read({"negative_prompt_ids": negative, "guidance": fields})


def test_branches_that_cancel_are_told_and_not_read(model):
    branches = [cp.Branch(OTHER, -0.75), cp.Branch(list(OTHER), 0.75)]
    with pytest.warns(NoEffectWarning, match="same context cancel"):
        done = cp.generate(model, PROMPT, branches=branches, max_tokens=6, temperature=0)
    assert done.token_ids == cp.generate(model, PROMPT, max_tokens=6, temperature=0).token_ids
    assert done.usage.branch_tokens == 0
    with pytest.raises(GuideError, match="same context cancel"):
        read({"guidance": {"branches": [{"prompt": "a", "weight": -1}, {"prompt": "a", "weight": 1}]}})


def test_what_can_do_something_is_not_warned_of(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for guide, options in (
            (Guide(plausibility=1.0), {"temperature": 1.0, "seed": 1}),
            (Guide(plausibility=1.0), {"temperature": 0, "repetition_penalty": 1.5}),
            (Guide(plausibility=1.0), {"temperature": 0, "logprobs": 1}),
            (Guide(start=7), {"temperature": 0}),
        ):
            prepare(model, PROMPT, negative=OTHER, guide=guide, max_tokens=8, **options).check(model)
        both = [cp.Branch(Suffix(OTHER), -0.5), cp.Branch(OTHER, 0.5)]  # the same ids, read after another text
        prepare(model, PROMPT, branches=both, max_tokens=8).check(model)
