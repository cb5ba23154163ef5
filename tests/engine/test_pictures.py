"""Prompts with pictures in the engine, beside text, against a loop that reads everything anew at each step."""

from __future__ import annotations

import copy
import functools

import picture_models as models
import pytest
import torch

import counterpoint as cp
from counterpoint.contexts import Inputs
from counterpoint.engine import Engine
from counterpoint.engine.generate import prepare
from counterpoint.errors import NoEffectWarning, PromptError, UnsupportedError
from counterpoint.models import ragged
from counterpoint.sampling import Sampling, draw, generator

STEPS, TEXT, NEGATIVES, GUIDES = models.STEPS, models.ASKED, models.NEGATIVES, models.GUIDES
KEEP_A_STATE = {"Qwen3.5", "LFM2-VL"}  # so each branch takes a forward of its own


@functools.cache
def _model(name: str) -> cp.Model:
    return cp.Model(models.ALL[name][0]())


def ban(_prompt_ids, _output_ids, scores):
    return scores.index_fill(-1, torch.tensor(models.BANNED), float("-inf"))


def written(model, *args, **options):
    options = {"max_tokens": STEPS, "temperature": 0, "ignore_eos": True, "processors": [ban], **options}
    out = cp.generate(model, *args, **options)
    return [list(one.token_ids) for one in out] if isinstance(out, list) else list(out.token_ids)


@pytest.mark.filterwarnings("ignore::counterpoint.errors.NoEffectWarning")
@pytest.mark.parametrize("name", [*models.MODELS, *models.MORE])
def test_pictures_beside_text_are_as_a_stateless_loop_has_them(name):
    model = _model(name)
    kinds = NEGATIVES if name in models.MODELS else ["larger picture", "no picture"]
    jobs = [(models.inputs(name, TEXT, 1), models.inputs(name, *NEGATIVES[k]), g) for k in kinds for g in GUIDES]
    jobs.append((models.inputs(name, TEXT, None), models.inputs(name, [8], None), GUIDES[0]))
    prompts = [Inputs(prompt) for prompt, *_ in jobs[:-1]] + [jobs[-1][0]["input_ids"][0]]
    negatives = [Inputs(negative) for _, negative, _ in jobs[:-1]] + [jobs[-1][1]["input_ids"][0]]
    got = written(model, prompts, negative=negatives, guide=[guide for *_, guide in jobs])
    for tokens, (prompt, negative, guide) in zip(got, jobs, strict=True):
        assert tokens == models.stateless(name, model.hf, [prompt, negative], guide, num_steps=STEPS), guide
    assert model.new_rows().is_joint == (name not in KEEP_A_STATE)


@pytest.mark.parametrize("name", models.MODELS)
def test_samples_are_those_of_the_stateless_loop(name):
    model, prompt, other = _model(name), models.inputs(name, TEXT, 1), models.inputs(name, TEXT, 3)
    got = written(
        model, Inputs(prompt), negative=Inputs(other), guide=GUIDES[1], temperature=1.0, seed=5, n=2, max_tokens=12
    )
    for index, tokens in enumerate(got):
        source = generator(5 + index, "cpu")
        want = models.stateless(
            name,
            model.hf,
            [prompt, other],
            GUIDES[1],
            num_steps=12,
            choose=lambda s, _, g=source: draw(s, Sampling(), g),
        )
        assert tokens == want


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "Gemma 3", "Qwen3.5"])
def test_tokens_do_not_depend_on_how_rows_are_run(name):
    model, prompt, other = _model(name), Inputs(models.inputs(name, TEXT, 1)), Inputs(models.inputs(name, TEXT, 2))
    branches = [cp.Branch(other, weight=-1.0), cp.Branch(cp.contexts.LastTokens(), weight=-0.5)]
    ways = {"draft_tokens": 4}, {"max_rows": 3}, {"repeatable": True}
    want = written(model, prompt, branches=branches)
    for way in ways:
        assert written(model, [prompt, prompt, [1, 5, 6]], branches=branches, **way)[:2] == [want, want], way


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "LLaVA"])
def test_branches_with_pictures_and_a_suffix(name):
    model, prompt = _model(name), models.inputs(name, TEXT, 1)
    suffix = {**prompt, "input_ids": torch.cat([prompt["input_ids"], torch.tensor([[9, 10]])], 1)}
    branches = [
        cp.Branch(Inputs(models.inputs(name, TEXT, 3)), weight=-1.0),
        cp.Branch(cp.contexts.Suffix([9, 10]), -0.5),
    ]
    got = written(model, Inputs(prompt), branches=branches)

    ids: list[int] = []
    for _ in range(STEPS):  # the suffix stands behind all that is written
        new = torch.tensor([ids], dtype=torch.long)
        rows = [
            {**prompt, "input_ids": torch.cat([prompt["input_ids"], new], 1)},
            {
                **models.inputs(name, TEXT, 3),
                "input_ids": torch.cat([models.inputs(name, TEXT, 3)["input_ids"], new], 1),
            },
            {**suffix, "input_ids": torch.cat([prompt["input_ids"], new, torch.tensor([[9, 10]])], 1)},
        ]
        ids += models.stateless(name, model.hf, rows, cp.Guide(), num_steps=1, weights=(-1.0, -0.5))
    assert got == ids


def test_a_row_goes_on_after_it_was_set_aside_or_joined_late():
    name = "Qwen2.5-VL"
    model, prompt, other = _model(name), Inputs(models.inputs(name, TEXT, 1)), Inputs(models.inputs(name, TEXT, 2))
    options = {"temperature": 0, "ignore_eos": True, "processors": [ban], "guide": GUIDES[0]}
    want = written(model, prompt, negative=other, guide=GUIDES[0])
    engine = Engine(model, max_rows=2, prefix_tokens=4096)
    late = engine.add(prepare(model, prompt, negative=other, max_tokens=STEPS, **options), background=True)
    for _ in range(5):
        engine.step()
    first = engine.add(prepare(model, [1, 5, 6], negative=[1, 9], max_tokens=4, **options))
    ended = {p.request_id: p.completion for p in engine.run() if p.completion is not None}
    assert list(ended[late].token_ids) == want
    assert len(ended[first].token_ids) == 4
    again = engine.add(prepare(model, other, negative=prompt, max_tokens=STEPS, **options))
    (ended,) = [p.completion for p in engine.run() if p.completion is not None and p.request_id == again]
    assert list(ended.token_ids) == written(model, other, negative=prompt, guide=GUIDES[0])
    assert ended.usage.shared_tokens == 0  # the same ids with another picture are another prompt


@pytest.mark.parametrize("name", models.MODELS)
def test_a_text_after_a_picture_is_as_on_a_fresh_model(name):
    model = _model(name)
    written(model, Inputs(models.inputs(name, TEXT, 1)), negative=Inputs(models.inputs(name, TEXT, 2)), max_tokens=2)
    fresh = cp.Model(copy.deepcopy(models.ALL[name][0]()))
    assert written(model, [1, 5, 6], negative=[1, 8]) == written(fresh, [1, 5, 6], negative=[1, 8])
    ids = torch.tensor([[1, 5, 6, 7]])
    assert torch.equal(model.hf(**models.with_masks(name, {"input_ids": ids})).logits, fresh.hf(**models.with_masks(name, {"input_ids": ids})).logits)  # fmt: skip


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("neutral", ["scale 1", "the prompt"])
def test_what_is_neutral_changes_nothing_to_the_bit(name, neutral):
    model, prompt = _model(name), Inputs(models.inputs(name, TEXT, 1))
    same = Inputs({key: value.clone() for key, value in prompt.values.items()})
    negative, guide = (Inputs(models.inputs(name, TEXT, 3)), 1.0) if neutral == "scale 1" else (same, 3.0)
    options = {"max_tokens": 8, "temperature": 1.0, "seed": 3, "logprobs": 3, "processors": [ban]}
    want = cp.generate(model, prompt, **options)
    with pytest.warns(NoEffectWarning):
        got = cp.generate(model, prompt, negative=negative, guide=cp.Guide(scale=guide), **options)
    assert (got.token_ids, got.logprobs) == (want.token_ids, want.logprobs)


@pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")  # inside transformers 5.17
@pytest.mark.parametrize(
    "name, message",
    [("mllama", "after pictures or sounds.*keys of shape.*negative_inputs"), ("PaliGemma", "can't be guided: it is not causal")],
)  # fmt: skip
def test_a_model_that_cannot_go_on_is_refused_by_name(name, message):
    model, prompt = _model(name), Inputs(models.inputs(name, TEXT, 1))
    with pytest.raises(UnsupportedError, match=message) as caught:
        cp.generate(model, prompt, negative=[1, 5], max_tokens=2)
    assert "\n" not in str(caught.value)


def test_a_wrong_position_is_found_before_the_first_token(monkeypatch):
    model = cp.Model(models.qwen2_5_vl())
    monkeypatch.setattr(ragged, "opening", _shifted(ragged.opening))
    with pytest.raises(UnsupportedError, match="differ from those without a cache"):
        cp.generate(model, Inputs(models.inputs("Qwen2.5-VL", TEXT, 1)), negative=[1], max_tokens=2)


def _shifted(opened):
    def wrong(model, inputs, state):
        made = opened(model, inputs, state)
        return type(made)(made.logits, made.states, made.offset + 1)

    return wrong


def _two_places():
    given = models.inputs("LLaVA", TEXT, 1)
    return {
        **given,
        "input_ids": given["input_ids"].repeat(1, 2),
        "attention_mask": torch.ones(1, 20, dtype=torch.long),
    }


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("LLaVA", lambda: {**models.inputs("LLaVA", TEXT, 1), "pixels": torch.ones(1)}, "takes no pixels"),
        ("LLaVA", _two_places, "do not match"),
        ("LLaVA", lambda: {**models.inputs("LLaVA", TEXT, 1), "pixel_values": torch.ones(3, 5)}, "can't read what was made"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["prompt", "negative"])
def test_what_a_model_cannot_read_is_one_line(name, given, message, place):
    model, good, bad = _model(name), Inputs(models.inputs(name, TEXT, 1)), Inputs(given())
    with pytest.raises(PromptError, match=message) as caught:
        cp.generate(model, *([bad] if place == "prompt" else [good]), negative=bad if place == "negative" else good)
    assert "\n" not in str(caught.value)


def test_a_model_of_text_takes_no_pictures():
    model = cp.load("bundled")
    prompt = Inputs({"input_ids": torch.tensor([[1, 5]]), "pixel_values": torch.ones(1, 3, 8, 8)})
    for arguments in ({"prompt": prompt}, {"prompt": "Once", "negative": prompt}):
        with pytest.raises(PromptError, match="LlamaForCausalLM takes no pixel_values"):
            cp.generate(model, **arguments)
