from __future__ import annotations

import functools

import picture_models as models
import pytest
import torch

import counterpoint as cp
from counterpoint.errors import NoEffectWarning, PromptError, UnsupportedError

BANNED = models.BANNED
STEPS, TEXT, NEGATIVES, GUIDES = models.STEPS, models.ASKED, models.NEGATIVES, models.GUIDES


@pytest.fixture(scope="module", params=models.MODELS)
def named(request):
    return request.param, _model(request.param)


@functools.cache
def _model(name: str):
    return models.ALL[name][0]()


def stateless(name, model, prompt, negative, guide, *, sampled=False, num_steps=STEPS) -> list[int]:
    def draw(scores, _cond) -> int:
        return int(torch.multinomial(scores.softmax(-1), 1)) if sampled else int(scores.argmax())

    return models.stateless(name, model, [prompt, negative], guide, num_steps=num_steps, choose=draw)


def guided(model, prompt, negative, guide, **options) -> list[int]:
    out = model.generate(
        **prompt,
        custom_generate=cp.transformers.generate,
        negative_inputs=negative,
        guide=guide,
        max_new_tokens=STEPS,
        top_k=0,
        suppress_tokens=BANNED,
        **options,
    )
    return out[0, prompt["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("kind", NEGATIVES)
def test_another_picture_in_the_negative_is_as_a_stateless_loop_has_it(named, kind):
    name, model = named
    prompt, negative = models.inputs(name, TEXT, 1), models.inputs(name, *NEGATIVES[kind])
    for guide in GUIDES:
        want = stateless(name, model, prompt, negative, guide)
        assert guided(model, prompt, negative, guide, do_sample=False) == want, guide


def test_samples(named):
    name, model = named
    prompt, negative = models.inputs(name, TEXT, 1), models.inputs(name, TEXT, 3)
    torch.manual_seed(5)
    want = stateless(name, model, prompt, negative, GUIDES[1], sampled=True)
    torch.manual_seed(5)
    assert guided(model, prompt, negative, GUIDES[1], do_sample=True) == want


def test_beams_and_several_samples(named):
    name, model = named
    prompt, negative = models.inputs(name, TEXT, 1), models.inputs(name, TEXT, 3)
    beams = {"num_beams": 3, "do_sample": False}
    models.forget(model)
    assert guided(model, prompt, negative, GUIDES[0], **beams) == guided(
        model, prompt, negative, GUIDES[0], **beams, use_cache=False
    )
    torch.manual_seed(6)
    out = model.generate(
        **prompt,
        custom_generate=cp.transformers.generate,
        negative_inputs=negative,
        guide=GUIDES[2],
        max_new_tokens=6,
        num_return_sequences=2,
        do_sample=True,
        top_k=1,
        suppress_tokens=BANNED,
    )
    want = stateless(name, model, prompt, negative, GUIDES[2], num_steps=6)
    assert out[:, -6:].tolist() == [want, want]


def test_a_negative_equal_to_the_prompt_changes_nothing(named):
    name, model = named
    prompt = models.inputs(name, TEXT, 1)
    options = {"max_new_tokens": 8, "return_dict_in_generate": True, "output_scores": True, "do_sample": True}
    options["suppress_tokens"] = BANNED
    torch.manual_seed(7)
    want = model.generate(**prompt, **options)
    torch.manual_seed(7)
    with pytest.warns(NoEffectWarning, match="equals the prompt"):
        got = model.generate(
            **prompt,
            custom_generate=cp.transformers.generate,
            negative_inputs=models.inputs(name, TEXT, 1),
            guide=GUIDES[0],
            **options,
        )
    assert got.sequences.tolist() == want.sequences.tolist()
    assert all(torch.equal(a, b) for a, b in zip(got.scores, want.scores, strict=True))


def test_text_after_a_picture_is_as_on_a_fresh_model(named):
    name, model = named
    text, other = models.inputs(name, TEXT, None), models.inputs(name, [8, 9], None)
    fresh = models.MODELS[name][0]()
    want = guided(fresh, text, other, GUIDES[0], do_sample=False)
    guided(model, models.inputs(name, TEXT, 1), models.inputs(name, TEXT, 2), GUIDES[0], do_sample=False)
    assert guided(model, text, other, GUIDES[0], do_sample=False) == want


def test_what_cannot_be_a_negative_is_refused():
    name, model = "LLaVA", _model("LLaVA")
    prompt, other = models.inputs(name, TEXT, 1), models.inputs(name, TEXT, 3)
    wrong = [
        ({"pixel_values": other["pixel_values"]}, "no input_ids"),
        ("a picture", "no input_ids"),
        ({**other, "attention_mask": other["attention_mask"].clone().index_fill_(1, torch.tensor([-1]), 0)}, "right"),
        ({"input_ids": torch.ones(3, 4, dtype=torch.long)}, "negative_inputs is of shape 3"),
    ]
    for negative, message in wrong:
        with pytest.raises(PromptError, match=message):
            guided(model, prompt, negative, GUIDES[0])
    with pytest.raises(PromptError, match="both given"):
        guided(model, prompt, other, GUIDES[0], negative_prompt_ids=torch.tensor([[1]]))


@pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")  # inside transformers 5.17
def test_mllama_goes_on_beside_its_picture():
    name, model = "mllama", _model("mllama")
    prompt, negative = models.inputs(name, TEXT, 1), models.inputs(name, TEXT, 3)
    for guide in GUIDES:
        want = stateless(name, model, prompt, negative, guide)
        assert guided(model, prompt, negative, guide, do_sample=False) == want, guide


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(
    "guide", [cp.Guide(scale=s, space=space) for s in (0, 3) for space in ("log", "prob")], ids=str
)
def test_emu3_draws(guide, sampled):
    name, model = "Emu3", _model("Emu3")
    prompt, negative = models.inputs(name, TEXT, None), models.inputs(name, [8, 9], None)

    def draw(scores, _cond) -> int:
        only, drawn = torch.full_like(scores, float("-inf")), list(models.DRAWN)
        # transformers' processor takes all that it allows for equal where guidance has ruled out all of it.
        only[drawn] = scores[drawn] if scores[drawn].isfinite().any() else 0.0
        return int(torch.multinomial(only.softmax(-1), 1)) if sampled else int(only.argmax())

    torch.manual_seed(8)
    want = models.stateless(name, model, [prompt, negative], guide, num_steps=STEPS, choose=draw)
    torch.manual_seed(8)
    out = model.generate(
        **prompt,
        custom_generate=cp.transformers.generate,
        negative_prompt_ids=negative["input_ids"],
        guide=guide,
        prefix_allowed_tokens_fn=lambda _, __: list(models.DRAWN),
        max_new_tokens=STEPS,
        do_sample=sampled,
        top_k=0,
    )
    got = out[0, prompt["input_ids"].shape[1] :].tolist()
    assert got == want


def test_a_scale_that_a_class_keeps_to_itself_is_an_error():
    model, prompt = _model("Janus"), models.inputs("Janus", TEXT, 1)
    options = {"custom_generate": cp.transformers.generate, "negative_inputs": prompt, "max_new_tokens": 2}
    with pytest.raises(UnsupportedError, match="keeps guidance_scale, 3.0, to itself; pass guide="):
        model.generate(**prompt, **options, guidance_scale=3.0)
