from __future__ import annotations

import re

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from counterpoint.errors import NoEffectWarning
from counterpoint.guide import Guide
from counterpoint.models.caches import GENERATED_FIELD
from counterpoint.transformers import generate

PROMPT = torch.tensor([[7, 12, 9, 33]])
NEGATIVE = torch.tensor([[40, 8, 66, 13, 27, 5]])
ASK = {"max_new_tokens": 24, "do_sample": False, "negative_prompt_ids": NEGATIVE, "guidance_scale": 3.0}
OURS = dict(ASK, custom_generate=generate)


@pytest.fixture
def model() -> PreTrainedModel:
    return ARCHITECTURES["llama"].model()


class Record(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.reshape(-1).tolist()

    def end(self) -> None:
        self.ended = True


class At(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


class Watch(LogitsProcessor):
    def __init__(self) -> None:
        self.sums: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.sums += scores.exp().sum(-1).tolist()
        return scores


def forwards(model: PreTrainedModel, **arguments: object) -> int:
    calls: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        model.generate(PROMPT, **arguments)
    finally:
        hook.remove()
    return len(calls)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 3.0, 7.0])
def test_the_tokens_of_transformers_where_those_are_right(model: PreTrainedModel, scale: float) -> None:
    want = model.generate(PROMPT, **{**ASK, "guidance_scale": scale, "max_new_tokens": 64})
    ours = {**OURS, "guidance_scale": scale, "max_new_tokens": 64}
    if scale == 1.0:
        with pytest.warns(NoEffectWarning, match="scale is 1"):
            got = model.generate(PROMPT, **ours)
    else:
        got = model.generate(PROMPT, **ours)
    assert torch.equal(got, want)


def test_both_branches_in_one_forward(model: PreTrainedModel) -> None:
    more = forwards(model, **{**OURS, "max_new_tokens": 20}) - forwards(model, **{**OURS, "max_new_tokens": 10})
    assert more == 10


def test_a_forward_for_each_token(model: PreTrainedModel) -> None:
    forwards(model, **{**OURS, "max_new_tokens": 1})  # the trial is behind us
    assert forwards(model, **{**OURS, "max_new_tokens": 12}) == 12


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "jamba"])
def test_beams_are_the_same_without_a_cache(name: str) -> None:
    model = ARCHITECTURES[name].model()
    want = model.generate(PROMPT, **OURS, num_beams=3, use_cache=False)
    assert torch.equal(model.generate(PROMPT, **OURS, num_beams=3), want)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["static", "hybrid", "sliding_window"])
def test_a_cache_of_fixed_size_by_any_name_is_no_wish(model: PreTrainedModel, name: str) -> None:
    forwards(model, **{**OURS, "max_new_tokens": 1})  # the trial is behind us
    assert forwards(model, **{**OURS, "cache_implementation": name, "max_new_tokens": 12}) == 12


def test_beams_in_one_forward(model: PreTrainedModel) -> None:
    asked = {"num_beams": 3, "num_return_sequences": 2}
    more = forwards(model, **{**OURS, **asked, "max_new_tokens": 20}) - forwards(
        model, **{**OURS, **asked, "max_new_tokens": 10}
    )
    assert more == 10


def test_drafts_of_both_branches_in_one_forward(model: PreTrainedModel) -> None:
    """Never more forwards than tokens, however many positions of a draft are checked."""
    forwards(model, **{**OURS, "max_new_tokens": 1})  # the trial is behind us
    assert forwards(model, **{**OURS, "prompt_lookup_num_tokens": 4}) <= 24


def test_no_forward_of_the_negative_past_stop(model: PreTrainedModel) -> None:
    rows: list[int] = []
    hook = model.register_forward_pre_hook(lambda _m, _a, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    try:
        model.generate(PROMPT, **{**OURS, "guidance_scale": None}, guide=Guide(scale=3.0, start=3, stop=9))
    finally:
        hook.remove()
    assert rows[-24:] == [1] * 4 + [2] * 5 + [1] * 15 or rows[-25:] == [1] * 3 + [1, 1] + [2] * 5 + [1] * 15


def test_streamer(model: PreTrainedModel) -> None:
    record = Record()
    out = model.generate(PROMPT, streamer=record, **OURS)
    assert record.tokens == out[0].tolist() and record.ended


def test_streamer_beside_drafting(model: PreTrainedModel) -> None:
    record = Record()
    out = model.generate(PROMPT, streamer=record, prompt_lookup_num_tokens=3, **OURS)
    assert record.tokens == out[0].tolist() and record.ended
    assert torch.equal(out, model.generate(PROMPT, **OURS))


def test_stopping_criteria(model: PreTrainedModel) -> None:
    out = model.generate(PROMPT, stopping_criteria=StoppingCriteriaList([At(9)]), **OURS)
    assert torch.equal(out, model.generate(PROMPT, **OURS)[:, :9])


def test_processors_see_the_guided_distribution(model: PreTrainedModel) -> None:
    for more in ({}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 3}):
        watch = Watch()
        model.generate(PROMPT, logits_processor=LogitsProcessorList([watch]), **OURS, **more)
        # Drafts are looked at without guidance; beams and the plain loop see guided log-probabilities alone.
        guided = watch.sums if "prompt_lookup_num_tokens" not in more else [s for s in watch.sums if s < 2]
        assert guided and guided == pytest.approx([1.0] * len(guided), abs=1e-3)


def test_a_ban_holds_under_guidance(model: PreTrainedModel) -> None:
    free = model.generate(PROMPT, **OURS)
    banned = int(free[0, 5])
    out = model.generate(PROMPT, suppress_tokens=[banned], **OURS)
    assert banned not in out[0, 4:].tolist()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_output_object(name: str) -> None:
    """Every field is that of transformers, one forward or two, padding and rows that end early included."""
    model = ARCHITECTURES[name].model()
    prompts = torch.tensor([[0, 0, 7, 12, 9, 33], [5, 6, 7, 8, 9, 10]])
    free = model.generate(prompts, attention_mask=(prompts != 0).long(), **OURS)
    asked = dict(
        OURS,
        attention_mask=(prompts != 0).long(),
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        eos_token_id=int(free[0, 10]),
    )
    out, slow = model.generate(prompts, **asked), model.generate(prompts, **asked, output_hidden_states=True)
    assert type(out) is type(slow) and torch.equal(out.sequences, slow.sequences)
    assert len(out.scores) == len(out.logits) == len(slow.scores) == out.sequences.shape[1] - 6
    for kind in ("scores", "logits"):
        for ours, other in zip(getattr(out, kind), getattr(slow, kind)):
            assert ours.dtype is torch.float32
            assert torch.allclose(ours.log_softmax(-1), other.log_softmax(-1), atol=1e-3)
    assert out[GENERATED_FIELD].get_seq_length() == slow[GENERATED_FIELD].get_seq_length()
    seen = (torch.arange(out.sequences.shape[1] - 1) >= torch.tensor([[2], [0]]))[:, None, :, None]
    for ours, other in zip(out[GENERATED_FIELD].layers, slow[GENERATED_FIELD].layers):
        assert ours.keys.shape == other.keys.shape
        kept = seen[:, :, -ours.keys.shape[2] :]
        assert torch.allclose(ours.keys * kept, other.keys * kept, atol=1e-4)
        assert torch.allclose(ours.values * kept, other.values * kept, atol=1e-4)


def test_scores_beside_transformers(model: PreTrainedModel) -> None:
    asked = {"return_dict_in_generate": True, "output_scores": True}
    out, theirs = model.generate(PROMPT, **OURS, **asked), model.generate(PROMPT, **ASK, **asked)
    assert torch.equal(out.sequences, theirs.sequences)
    for ours, other in zip(out.scores, theirs.scores):
        assert torch.allclose(ours, other.log_softmax(-1), atol=1e-3)


def test_output_object_of_beams(model: PreTrainedModel) -> None:
    asked = dict(OURS, num_beams=3, return_dict_in_generate=True, output_scores=True)
    out, slow = model.generate(PROMPT, **asked), model.generate(PROMPT, **asked, output_hidden_states=True)
    assert type(out) is type(slow) and torch.equal(out.sequences, slow.sequences)
    assert torch.allclose(out.sequences_scores, slow.sequences_scores, atol=1e-4)
    assert torch.equal(out.beam_indices, slow.beam_indices) and len(out.scores) == len(slow.scores)


def test_output_object_beside_drafting() -> None:
    model = ARCHITECTURES["gemma3"].model()  # whose window is passed
    asked = dict(OURS, prompt_lookup_num_tokens=3, return_dict_in_generate=True, output_scores=True)
    out, plain = model.generate(PROMPT, **asked), model.generate(PROMPT, **OURS)
    assert torch.equal(out.sequences, plain) and len(out.scores) == 24
    assert out[GENERATED_FIELD].get_seq_length() == plain.shape[1] - 1


def test_right_padded_prompts_with_beams(model: PreTrainedModel) -> None:
    prompts = torch.tensor([[7, 12, 9, 33, 0, 0], [5, 6, 7, 8, 9, 10]])
    asked = dict(OURS, num_beams=3, max_new_tokens=12)
    out = model.generate(prompts, attention_mask=(prompts != 0).long(), **asked)
    assert torch.equal(out[0, 6:], model.generate(PROMPT, **asked)[0, 4:])


def test_attentions_and_hidden_states(model: PreTrainedModel) -> None:
    asked = {"return_dict_in_generate": True, "output_hidden_states": True}
    out = model.generate(PROMPT, **OURS, **asked)
    assert len(out.hidden_states) == 24 and torch.equal(out.sequences, model.generate(PROMPT, **OURS))


def test_a_scale_from_the_list_of_scales(model: PreTrainedModel) -> None:
    prompts = PROMPT.repeat(2, 1)
    both = model.generate(prompts, **{**OURS, "guidance_scale": [1.5, 4.0]})
    for row, scale in zip(both, (1.5, 4.0)):
        assert torch.equal(row[None], model.generate(PROMPT, **{**OURS, "guidance_scale": scale}))


def test_a_scale_fills_in_the_guide(model: PreTrainedModel) -> None:
    one = model.generate(PROMPT, **{**OURS, "guidance_scale": 4.0}, guide=Guide(space="prob"))
    other = model.generate(PROMPT, **{**OURS, "guidance_scale": None}, guide=Guide(scale=4.0, space="prob"))
    assert torch.equal(one, other)


def test_nothing_to_guide_by(model: PreTrainedModel) -> None:
    with pytest.warns(NoEffectWarning, match="nothing is guided"):
        out = model.generate(PROMPT, max_new_tokens=8, do_sample=False, custom_generate=generate)
    assert torch.equal(out, model.generate(PROMPT, max_new_tokens=8, do_sample=False))


def test_a_negative_that_changes_nothing(model: PreTrainedModel) -> None:
    with pytest.warns(NoEffectWarning, match="equals the prompt"):
        out = model.generate(PROMPT, **{**OURS, "negative_prompt_ids": PROMPT})
    assert torch.equal(out, model.generate(PROMPT, max_new_tokens=24, do_sample=False))


def test_beams_that_change_nothing(model: PreTrainedModel) -> None:
    with pytest.warns(NoEffectWarning, match="equals the prompt"):
        out = model.generate(PROMPT, **{**OURS, "negative_prompt_ids": PROMPT, "num_beams": 2})
    assert torch.equal(out, model.generate(PROMPT, max_new_tokens=24, do_sample=False, num_beams=2))


def test_the_model_is_as_before() -> None:
    """Whatever a vision-language model keeps between calls is that of the conditional branch."""
    from conformance.cases import ONE, PICTURE
    from conformance.integrations import OurGenerate
    from conformance.request import Request

    model = ARCHITECTURES["qwen2_5_vl"].model()
    request = Request(prompts=(PICTURE + ONE.prompts[0],), negatives=ONE.negatives, max_tokens=6)
    OurGenerate().generate(model, request)
    after = model.model.rope_deltas.clone()
    OurGenerate().run(model, request)
    assert torch.equal(after, model.model.rope_deltas)


def test_documented_arguments() -> None:
    for name in ("guidance_scale", "negative_prompt_ids", "negative_prompt_attention_mask", "guide"):
        assert re.search(rf"^ +{name}:", generate.__doc__, re.MULTILINE)
