"""Compiled steps give the tokens of the stateless loop, and slots that take no part lose nothing."""

import random
from types import SimpleNamespace

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from engine.oracle import assert_same, guided_tokens

import counterpoint as cp
from counterpoint.errors import CompileWarning, ModelError
from counterpoint.models import compiled, ragged
from counterpoint.models.compiled import CompiledSteps
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.recorded.steps import RecordedSteps
from counterpoint.models.rows import Feed


def ids(length, seed=5):
    source = random.Random(f"{seed} {length}")
    return [source.randrange(2, VOCAB) for _ in range(length)]


@pytest.fixture(scope="module")
def model():
    return cp.Model(ARCHITECTURES["llama"].model(), compile=True)


def test_equal_to_the_stateless_loop(model):
    prompts, negatives = [ids(5), ids(40)], [ids(17), ids(2)]
    guides = [cp.Guide(scale=3.0), cp.Guide(scale=2.0, space="prob")]
    done = cp.generate(model, prompts, negative=negatives, guide=guides, max_tokens=40, temperature=0, ignore_eos=True)
    assert model._fixed.usable and list(model._fixed._steps) == [(4, 1, 256)]
    for i, completion in enumerate(done):
        weights, space = [1 - guides[i].scale], guides[i].space
        want, margins = guided_tokens(model.hf, prompts[i], [negatives[i]], weights, space=space, num_tokens=40)
        assert_same(completion.token_ids, want, margins)


@torch.inference_mode()
def test_several_columns_and_guesses_taken_back(model):
    rows = RaggedRows(model.hf, model._fixed)
    texts = {rows.add(): ids(6, 1), rows.add(): ids(9, 2)}
    rows.forward([Feed(h, text, columns=()) for h, text in texts.items()])
    source = random.Random(0)
    for widths, kept in [((5, 1), (2, 1)), ((8, 8), (8, 3)), ((2, 7), (1, 7))]:
        fed = {h: [source.randrange(2, VOCAB) for _ in range(width)] for h, width in zip(texts, widths)}
        got = rows.forward([Feed(h, new, columns=range(len(new))) for h, new in fed.items()])
        want = [model.hf(torch.tensor([texts[h] + new])).logits[0, -len(new) :] for h, new in fed.items()]
        assert torch.allclose(got, torch.cat(want), atol=1e-3)
        for h, num_kept in zip(texts, kept):
            texts[h] += fed[h][:num_kept]
            rows.crop(h, len(texts[h]))
    assert (2, 8, 256) in model._fixed._steps and model._fixed.usable


def test_another_model_of_the_same_shapes_has_steps_of_its_own(model):
    other = cp.Model(ARCHITECTURES["llama"].build().eval(), compile=True)
    for one in (other, model):
        done = cp.generate(one, [ids(5), ids(8)], max_tokens=6, temperature=0, ignore_eos=True)
        for prompt, completion in zip([ids(5), ids(8)], done):
            want, margins = guided_tokens(one.hf, prompt, [], [], num_tokens=6)
            assert_same(completion.token_ids, want, margins)
        assert (2, 1, 256) in one._fixed._steps


@pytest.mark.parametrize("num_steps, step_s, pays", [(60, 0.02, False), (3000, None, False), (2000, 0.02, True)])
def test_the_automatic_choice_asks_for_twice_the_time_of_compiling(num_steps, step_s, pays):
    steps = CompiledSteps(ARCHITECTURES["llama"].model(), always=False)  # 2 layers: 4 s, of which 5 ms a step are saved
    assert steps.pays(2, 1, 256, num_steps=num_steps, step_s=step_s) is pays


def test_a_short_run_compiles_nothing_and_a_long_one_does(monkeypatch):
    def tokens():
        model = cp.Model(ARCHITECTURES["llama"].model())
        return model, cp.generate(model, ids(5), max_tokens=12, temperature=0, ignore_eos=True).token_ids

    monkeypatch.setattr(RecordedSteps, "usable", False)  # they are quicker than compiled ones
    model, short = tokens()
    assert not model._fixed._steps and not model.compiles
    monkeypatch.setattr(compiled, "COMPILE_S_A_LAYER", 0)
    model, long = tokens()
    assert list(model._fixed._steps) == [(1, 1, 256)] and long == short


@torch.inference_mode()
def test_a_step_that_was_held_up_is_no_reason_to_compile(monkeypatch):
    clock = iter([0, 10, 10, 310, 310, 330, 330, 360])  # a step begins, a step ends
    monkeypatch.setattr(RecordedSteps, "usable", False)
    monkeypatch.setattr(ragged, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    asked = []

    class Steps(CompiledSteps):
        def pays(self, *shape, num_steps, step_s):
            asked.append(step_s)
            return False

    hf = ARCHITECTURES["llama"].build().eval()
    rows = RaggedRows(hf, Steps(hf, always=False))
    row = rows.add()
    rows.forward([Feed(row, ids(5), columns=())])
    for token_id in (5, 6, 7, 8):
        rows.forward([Feed(row, [token_id])])
    assert asked == [None, None, 10, 20]


def test_what_compile_can_be():
    with pytest.raises(ModelError, match="compile is 'always'; use True, False or 'auto'"):
        cp.Model(ARCHITECTURES["llama"].model(), compile="always")


@torch.inference_mode()
def test_slots_that_take_no_part_lose_nothing(model):
    rows = RaggedRows(model.hf, model._fixed)
    texts = [ids(4, 1), ids(9, 2), ids(30, 3)]
    handles = [rows.add() for _ in texts]
    rows.forward([Feed(h, text, columns=()) for h, text in zip(handles, texts)])
    first = rows.forward([Feed(handles[0], [5]), Feed(handles[2], [6])])
    second = rows.forward([Feed(handles[2], [7]), Feed(handles[1], [8])])
    want = [[*texts[0], 5], [*texts[2], 6], [*texts[2], 6, 7], [*texts[1], 8]]
    for logits, text in zip([*first, *second], want):
        assert torch.allclose(logits, model.hf(torch.tensor([text])).logits[0, -1], atol=1e-3)


@torch.inference_mode()
def test_other_logits_are_told_and_not_used():
    hf = ARCHITECTURES["llama"].build().eval()

    class Wrong(CompiledSteps):
        def _step(self, packed, rows, masks, keys, values):
            return super()._step(packed + 1, rows, masks, keys, values)

    rows = RaggedRows(hf, Wrong(hf))
    row = rows.add()
    rows.forward([Feed(row, [5, 6, 7], columns=())])
    with pytest.warns(CompileWarning, match="not compiled: its logits differ"):
        got = rows.forward([Feed(row, [8])])
    assert torch.allclose(got[0], hf(torch.tensor([[5, 6, 7, 8]])).logits[0, -1], atol=1e-3)
    got = rows.forward([Feed(row, [9])])
    assert torch.allclose(got[0], hf(torch.tensor([[5, 6, 7, 8, 9]])).logits[0, -1], atol=1e-3)


@torch.inference_mode()
def test_what_does_not_compile_is_told_and_runs_as_it_is(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no compiler on this machine")

    hf = ARCHITECTURES["gpt2"].build().eval()
    monkeypatch.setattr(torch, "compile", refuse)
    model = cp.Model(hf, compile=True)
    with pytest.warns(CompileWarning, match="no compiler on this machine"):
        got = cp.generate(model, ids(5), max_tokens=4, temperature=0, ignore_eos=True)
    want, margins = guided_tokens(hf, ids(5), [], [], num_tokens=4)
    assert_same(got.token_ids, want, margins)
