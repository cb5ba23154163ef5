"""transformers' own loops, tried as `generate` calls them: what only shows after some written tokens, or in one kind of cache."""

from __future__ import annotations

import pytest
import torch
from models import small
from sweep.checks import CHECKS, Oracle, outcome
from sweep.classes import swept
from transformers import GenerationConfig

from counterpoint.errors import PromptError, UnsupportedError
from counterpoint.models.trials import LoopCall, abilities_of
from counterpoint.models.trials.own_loop import Written
from counterpoint.transformers import generate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while some modules are imported

CASES = {
    "UnlimitedOcrForConditionalGeneration": ("hidden states", "output object"),  # a window of what is written alone
    "LEDForConditionalGeneration": ("static cache", "padded prompts"),
    "DeepseekV32ForCausalLM": ("beams, padded", "output object"),
    "HYV4ForCausalLM": ("padded prompts", "static cache"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_right_or_refused(name: str) -> None:
    if name not in swept():
        pytest.skip("not in this transformers")
    model = swept()[name].model()
    found = {check: outcome(CHECKS[check], model, Oracle(model)) for check in CASES[name]}
    assert {result.partition(":")[0] for result in found.values()} <= {"right", "refused"}, found
    assert all("; " in result for result in found.values() if result != "right")  # with a way out


@torch.no_grad()
def test_the_way_out_is_one_that_a_trial_has_shown() -> None:
    if "LEDForConditionalGeneration" not in swept():
        pytest.skip("not in this transformers")
    model = swept()["LEDForConditionalGeneration"].model()
    ask = {"negative_prompt_ids": torch.tensor([[9, 8, 7]]), "guidance_scale": 3.0, "custom_generate": generate}
    ids = torch.arange(5, 14)[None]
    mask = torch.ones_like(ids)
    with pytest.raises(UnsupportedError, match="leave cache_implementation out"):
        model.generate(ids, attention_mask=mask, cache_implementation="static", max_new_tokens=3, **ask)
    assert model.generate(ids, attention_mask=mask, max_new_tokens=3, **ask).shape[1] == 4


@pytest.mark.parametrize("holes", [(0, 1, 2), (4, 5)])
@pytest.mark.parametrize("kind", ["rwkv", "gpt_neo"])
@torch.no_grad()
def test_one_prompt_with_padding_before_or_between_its_tokens(kind: str, holes: tuple[int, ...]) -> None:
    """RWKV reads padding; a window counts what lies between."""
    model = getattr(small, kind)()
    ids = torch.tensor([[7 + 11 * at % 90 for at in range(12)]])
    mask = torch.ones_like(ids)
    mask[0, list(holes)] = 0
    ask = {"negative_prompt_ids": torch.tensor([[9, 8, 7]]), "guidance_scale": 3.0, "custom_generate": generate}
    ask |= {"max_new_tokens": 12, "do_sample": False}
    want = model.generate(ids[mask != 0][None], **ask)[0, 12 - len(holes) :]
    assert model.generate(ids, attention_mask=mask, **ask)[0, 12:].tolist() == want.tolist()
    try:
        states = model.generate(
            ids, attention_mask=mask, output_hidden_states=True, return_dict_in_generate=True, **ask
        )
    except UnsupportedError as error:
        assert "padded" in str(error) or "padding" in str(error)
    else:
        assert states.sequences[0, 12:].tolist() == want.tolist()


def test_each_kind_of_call_is_tried_by_itself() -> None:
    static = GenerationConfig(cache_implementation="static")
    assert LoopCall.of(static, num_rows=5, padded=True) == LoopCall(2, True, static="static")
    assert LoopCall.of(GenerationConfig(cache_implementation="dynamic"), num_rows=1, padded=False) == LoopCall(1)
    chunks = LoopCall.of(GenerationConfig(prefill_chunk_size=256), num_rows=1, padded=False)
    assert chunks == LoopCall(1, chunked=True) and chunks.settings(3).prefill_chunk_size < 8
    model = small.llama()
    assert abilities_of(model).own_loop(chunks)


def test_the_first_step_that_differs_is_told() -> None:
    logits = [torch.zeros(3, 4), torch.zeros(3, 4)]
    written = Written([(1, 2, 3, 4, 5), (7, 8, 9, 3)], [2, 1], logits)
    asked: list[tuple[int, tuple[int, ...]]] = []

    def agrees(row: int, _got: torch.Tensor, text: tuple[int, ...], _whole: tuple[int, ...]) -> bool:
        asked.append((row, text))
        return len(asked) < 5

    assert written.first_difference(agrees).length == 2
    assert asked == [(0, (1, 2)), (0, (1, 2, 3)), (0, (1, 2, 3, 4)), (1, (7,)), (1, (7, 8))]


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"cache_implementation": "static"}])
def test_past_the_end_of_a_table_is_refused_before_the_first_token(more: dict[str, object]) -> None:
    model = small.mpt(40)
    ids = torch.arange(5, 35)[None]
    ask = {
        "attention_mask": torch.ones_like(ids),
        "guidance_scale": 3.0,
        "custom_generate": generate,
        "do_sample": False,
        **more,
    }
    with pytest.raises(PromptError, match="50 tokens, 20 of them new.*fails past 40; set max_new_tokens to 10 or less"):
        model.generate(ids, max_new_tokens=20, **ask)
    assert model.generate(ids, max_new_tokens=10, **ask).shape[1] == 40


@pytest.mark.parametrize(
    "more", [{}, {"num_beams": 2}, {"output_hidden_states": True, "return_dict_in_generate": True}]
)
def test_ids_that_cant_be_read_back_are_not_chosen(more: dict[str, object]) -> None:
    """Whichever way is taken: one forward for both branches, beams, or two forwards with transformers' own loop."""
    model = small.wide_head()
    ids = torch.tensor([[5, 9, 31], [8, 44, 7]])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        negative_prompt_ids=torch.tensor([[60, 61]]),
        guidance_scale=3.0,
        max_new_tokens=8,
        do_sample=False,
        custom_generate=generate,
        **more,
    )
    assert int(getattr(out, "sequences", out).max()) < small.VOCAB
