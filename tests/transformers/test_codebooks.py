from __future__ import annotations

import copy
import functools

import codebook_models as models
import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList

import counterpoint as cp
from counterpoint.errors import GuideError, NoEffectWarning, PromptError, UnsupportedError
from counterpoint.transformers import codebooks

KINDS = {
    "musicgen": (models.musicgen, models.music),
    "musicgen stereo": (lambda: models.musicgen(2), models.music),
    "melody": (models.melody, models.music),
    "dia": (models.dia, models.speech),
}
PROMPTS = models.inputs([[5, 6, 7, 1], [9, 8, 1]])
NEGATIVE = models.inputs([[11, 12, 1]])
PROMPTS_OTHER = models.inputs([[15, 16, 17, 1], [19, 18, 1]])
LONG = models.inputs([[21, 22, 23, 24, 25, 1], [31, 1]])
STEPS = 26
IS_OLD = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    build, oracle = KINDS[request.param]
    model = build()
    if IS_OLD and request.param == "melody":
        with pytest.raises(UnsupportedError, match="something else with a cache than without"):
            codebooks(model, PROMPTS)
        pytest.skip("this transformers misreads MusicGen Melody, which is refused")
    return request.param, model, oracle


GUIDES = [
    cp.Guide(scale=scale, space=space, plausibility=plausibility)
    for scale, space, plausibility in [(0, "log", 0), (3, "log", 0), (0, "prob", 0), (3, "prob", 0), (3, "log", 0.1)]
]


@pytest.mark.parametrize("guide", GUIDES, ids=str)
@pytest.mark.parametrize("sampled", [False, True])
def test_every_codebook_is_guided_as_a_stateless_loop_has_it(kind, guide, sampled):
    name, model, oracle = kind
    negative = NEGATIVE if name != "melody" else models.inputs([[11, 12, 13, 1]])
    torch.manual_seed(1)
    got = model.generate(
        **codebooks(model, PROMPTS, negative=negative, guide=guide), do_sample=sampled, max_new_tokens=STEPS, top_k=0
    )
    torch.manual_seed(1)
    want = oracle(
        model,
        [PROMPTS, negative],
        weights=guide.weights([cp.Branch(None)]),
        guide=guide,
        num_steps=STEPS,
        sampled=sampled,
    )
    assert got.tolist() == want.tolist()


def test_several_weighted_branches(kind):
    _, model, oracle = kind
    branches = [
        cp.Branch(PROMPTS, weight=0.3),
        cp.Branch(models.inputs([[3, 4, 5, 1]]), weight=-0.7),
        cp.Branch(models.inputs([[14, 15, 16, 1], [17, 18, 19, 1]]), weight=0.4),
    ]
    guide = cp.Guide(space="prob", adaptive="jsd")
    got = model.generate(
        **codebooks(model, PROMPTS, branches=branches, guide=guide), do_sample=False, max_new_tokens=STEPS
    )
    want = oracle(
        model,
        [PROMPTS, *(branch.context for branch in branches)],
        weights=[0.3, -0.7, 0.4],
        guide=guide,
        num_steps=STEPS,
    )
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize("inputs", [PROMPTS, LONG], ids=["short", "long"])
def test_silence_is_what_the_model_itself_pushes_away_from(kind, inputs):
    name, model, _ = kind
    own_scale = 2.0 if name == "dia" else 3.0  # Dia counts from 0
    options = {"do_sample": False, "max_new_tokens": STEPS, "top_k": None}
    want = model.generate(**inputs, **options, guidance_scale=own_scale)
    asked = codebooks(model, inputs, guide=cp.Guide(scale=3.0))
    assert model.generate(**asked, **options).tolist() == want.tolist()
    assert model.generate(**asked, **options).tolist() == want.tolist()  # the arguments can be used again


def test_each_prompt_has_its_guide(kind):
    _, model, _ = kind
    options = {"do_sample": False, "max_new_tokens": STEPS}
    guides = [cp.Guide(scale=4.0, start=3), cp.Guide(scale=2.0, space="prob", stop=9, gate=0.5)]
    both = model.generate(**codebooks(model, PROMPTS, guide=guides), **options)
    for row, guide in enumerate(guides):
        alone = model.generate(**codebooks(model, PROMPTS, guide=[guide, guide]), **options)
        assert both[row].tolist() == alone[row].tolist()
    assert both[0].tolist() != model.generate(**codebooks(model, PROMPTS, guide=guides[1]), **options)[0].tolist()


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("neutral", ["scale 1", "equal"])
def test_what_changes_nothing_gives_the_unguided_codes_to_the_last_bit(kind, sampled, neutral):
    _, model, _ = kind
    guide, negative = (cp.Guide(scale=1.0), NEGATIVE) if neutral == "scale 1" else (cp.Guide(scale=3.0), PROMPTS)
    with pytest.warns(NoEffectWarning, match="scale is 1" if neutral == "scale 1" else "equals the prompt"):
        asked = codebooks(model, PROMPTS, negative=negative, guide=guide)
    options = {"do_sample": sampled, "max_new_tokens": STEPS, "return_dict_in_generate": True, "output_scores": True}
    torch.manual_seed(3)
    got = model.generate(**asked, **options)
    torch.manual_seed(3)
    want = model.generate(**PROMPTS, **options, guidance_scale=1.0)
    assert got.sequences.tolist() == want.sequences.tolist()
    assert all(torch.equal(a, b) for a, b in zip(got.scores, want.scores, strict=True))


def test_other_calls_and_copies_of_the_model_stay_as_they_were(kind):
    _, model, _ = kind
    options = {"do_sample": False, "max_new_tokens": 8, "guidance_scale": 1.0}
    before = model.generate(**PROMPTS, **options)
    asked = codebooks(model, PROMPTS, negative=PROMPTS_OTHER)
    guided = model.generate(**asked, do_sample=False, max_new_tokens=8)
    assert model.generate(**PROMPTS, **options).tolist() == before.tolist()
    twin = copy.deepcopy(model)
    assert twin.generate(**asked, do_sample=False, max_new_tokens=8).tolist() == guided.tolist()
    assert vars(twin)["_sample"].__self__ is twin


def test_scores_are_guided_and_sum_to_1(kind):
    name, model, _ = kind
    out = model.generate(
        **codebooks(model, PROMPTS, guide=cp.Guide(scale=5.0, space="prob")),
        do_sample=False,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    first = out.scores[0]
    sums = first.exp().sum(-1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5 if name != "dia" else 0.2)  # Dia rules out its end
    assert out.logits[0].shape == first.shape  # those of the prompts


def test_samples_that_the_model_would_join_are_refused(kind):
    name, model, _ = kind
    with pytest.raises((UnsupportedError, ValueError, TypeError), match="num_return_sequences"):
        model.generate(**codebooks(model, PROMPTS), do_sample=True, max_new_tokens=4, num_return_sequences=2)


def test_a_negative_that_melody_cannot_mask_is_refused():
    model = models.melody()
    with pytest.raises(PromptError, match="2 tokens longer"):
        codebooks(model, PROMPTS, negative=LONG)


PICTURE = {"input_ids": torch.tensor([[1, 10, 11, 12, 5], [1, 20, 21, 22, 5]])}
PICTURE["attention_mask"] = torch.ones_like(PICTURE["input_ids"])


@pytest.mark.filterwarnings("ignore::counterpoint.errors.NoEffectWarning")
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("guide", [*GUIDES, cp.Guide(scale=1.0)], ids=str)
def test_pictures_of_janus(guide, sampled):
    model = _cached_janus()
    asked = codebooks(model, PICTURE, guide=guide)
    for _ in range(2):  # the arguments can be used again
        torch.manual_seed(4)
        got = model.generate(**asked, do_sample=sampled, top_k=0)
        torch.manual_seed(4)
        want = models.picture(model, PICTURE["input_ids"], guide, num_steps=25, sampled=sampled)
        assert got.tolist() == want.tolist()


def test_pictures_as_janus_guides_them_itself():
    model = _cached_janus()
    want = model.generate(**PICTURE, generation_mode="image", guidance_scale=3.0, do_sample=False)
    got = model.generate(**codebooks(model, PICTURE, guide=cp.Guide(scale=3.0)), do_sample=False)
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize(
    "arguments, message",
    [({"negative": PICTURE}, "no other negative"), ({"guide": cp.Guide(start=2)}, "start is 2")],
    ids=["negative", "start"],
)
def test_what_janus_cannot_do_is_refused(arguments, message):
    with pytest.raises(UnsupportedError, match=message):
        codebooks(_cached_janus(), PICTURE, **arguments)


def test_several_pictures_of_a_prompt_are_refused():
    model = _cached_janus()
    with pytest.raises(UnsupportedError, match="num_return_sequences"):
        model.generate(**codebooks(model, PICTURE), do_sample=True, num_return_sequences=2)


WRONG = [
    ({"inputs": {"attention_mask": PROMPTS["attention_mask"]}}, PromptError, "inputs has no input_ids"),
    ({"inputs": "drums"}, PromptError, "inputs has no input_ids"),
    ({"negative": {"input_ids": torch.ones(3, 4, dtype=torch.long)}}, PromptError, "3 rows for 2 prompts"),
    ({"negative": NEGATIVE, "branches": [cp.Branch(NEGATIVE, -1.0)]}, PromptError, "both given"),
    ({"branches": []}, PromptError, "branches is"),
    ({"guide": "3"}, GuideError, "guide is '3'"),
    ({"guide": [cp.Guide()] * 3}, GuideError, "3 values for 2 prompts"),
]


@pytest.mark.parametrize("arguments, error, message", WRONG, ids=[m for *_, m in WRONG])
def test_wrong_arguments_are_one_line(arguments, error, message):
    model = _cached_musicgen()
    with pytest.raises(error, match=message) as caught:
        codebooks(model, **{"inputs": PROMPTS, **arguments})
    assert "\n" not in str(caught.value)


def test_other_models_are_refused():
    model = LlamaForCausalLM(LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9))
    with pytest.raises(UnsupportedError, match="custom_generate"):
        codebooks(model, PROMPTS)


def test_a_class_that_writes_whole_frames_is_refused_everywhere():
    model = models.csm()
    ids = torch.tensor([[1, 5, 6]])
    assert model.generate(ids, max_new_tokens=3, do_sample=False).dim() == 3  # frames of codes
    processor = cp.transformers.GuidanceLogitsProcessor(model, cp.Guide(scale=3.0), negative_prompt_ids=ids[:, :1])
    calls = [
        lambda: codebooks(model, {"input_ids": ids}),
        lambda: model.generate(ids, custom_generate=cp.transformers.generate, guidance_scale=3.0, max_new_tokens=3),
        lambda: model.generate(ids, logits_processor=LogitsProcessorList([processor]), max_new_tokens=3),
        lambda: cp.generate(cp.Model(model), [1, 5, 6], negative=[1], max_tokens=3),
        lambda: cp.generate(cp.Model(model), cp.contexts.Inputs({"input_ids": ids}), negative=[1], max_tokens=3),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match="a loop of its own"):
            call()


@functools.cache
def _cached_musicgen():
    return models.musicgen()


def _cached_janus():
    if IS_OLD:
        pytest.skip("Janus does not draw in this transformers")
    return _janus()


@functools.cache
def _janus():
    return models.janus()


def test_a_cache_that_misleads_is_found(monkeypatch):
    model = models.musicgen()
    forward, count = type(model.decoder).forward, 0

    def wrong(self, *args, **kwargs):
        nonlocal count
        count += 1
        out = forward(self, *args, **kwargs)
        if kwargs.get("use_cache") is not False:
            out.logits = out.logits.roll(1, dims=-1)
        return out

    monkeypatch.setattr(type(model.decoder), "forward", wrong)
    with pytest.raises(UnsupportedError, match="something else with a cache than without"):
        codebooks(model, PROMPTS, negative=NEGATIVE)
    assert count == 6  # three steps of each, and no sound
