"""Steps as CUDA graphs give the tokens of the stateless loop. Without a GPU, a stand-in does the work again at each replay."""

import random

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from engine.oracle import assert_same, guided_tokens

import counterpoint as cp
from counterpoint.errors import CompileWarning
from counterpoint.models import graphs
from counterpoint.models.graphs import GraphedSteps
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.recorded.steps import RecordedSteps
from counterpoint.models.rows import Feed

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ids(length, seed=5):
    source = random.Random(f"{seed} {length}")
    return [source.randrange(2, VOCAB) for _ in range(length)]


class Recorder:
    """Counts what is recorded and replayed."""

    def __init__(self, monkeypatch):
        self.num_recorded = self.num_replayed = 0
        self._captured = graphs.captured if DEVICE == "cuda" else self._again
        monkeypatch.setattr(graphs, "captured", self)

    @staticmethod
    def _again(work, device):
        result = work()
        return lambda: result.copy_(work()), result

    def __call__(self, work, device):
        self.num_recorded += 1
        replay, result = self._captured(work, device)

        def counted():
            self.num_replayed += 1
            replay()

        return counted, result


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(RecordedSteps, "usable", False)  # the CPU's own way
    return Recorder(monkeypatch)


def graphed(name="llama", *, always=False, context_len=256):
    hf = ARCHITECTURES[name].build().eval().to(DEVICE)
    hf.config.max_position_embeddings = context_len
    model = cp.Model(hf, compile=False)
    model._fixed = GraphedSteps(hf)
    model._fixed.always = always
    return model


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_equal_to_the_stateless_loop(recorder, name):
    model = graphed(name)
    prompts, negatives = [ids(5), ids(40)], [ids(17), ids(2)]
    guides = [cp.Guide(scale=3.0), cp.Guide(scale=2.0, space="prob")]
    done = cp.generate(model, prompts, negative=negatives, guide=guides, max_tokens=40, temperature=0, ignore_eos=True)
    assert (recorder.num_recorded, recorder.num_replayed) == (1, 39 - graphs.SEEN)
    for i, completion in enumerate(done):
        weights, space = [1 - guides[i].scale], guides[i].space
        want, margins = guided_tokens(model.hf, prompts[i], [negatives[i]], weights, space=space, num_tokens=40)
        assert_same(completion.token_ids, want, margins)


def test_over_the_lengths_and_rows_at_which_buffers_move(recorder):
    model = graphed(context_len=1024)
    prompts = [ids(230 + 5 * i, i) for i in range(5)]
    done = cp.generate(model, prompts, max_tokens=40, temperature=0, ignore_eos=True)
    assert recorder.num_recorded == 2
    for prompt, completion in zip(prompts, done):
        want, margins = guided_tokens(model.hf, prompt, [], [], num_tokens=len(completion.token_ids))
        assert_same(completion.token_ids, want, margins)


def test_the_next_request_finds_the_graphs_of_the_last(recorder):
    model = graphed()
    for prompt in (ids(60), ids(7), ids(33)):
        got = cp.generate(model, prompt, negative=ids(9), max_tokens=12, temperature=0, ignore_eos=True)
        want, margins = guided_tokens(model.hf, prompt, [ids(9)], [-0.5], num_tokens=12)
        assert_same(got.token_ids, want, margins)
    assert (recorder.num_recorded, recorder.num_replayed) == (1, 11 - graphs.SEEN + 2 * 11)


@torch.inference_mode()
def test_several_columns_and_guesses_taken_back(recorder):
    model = graphed(always=True)
    rows = RaggedRows(model.hf, model._fixed)
    texts = {rows.add(): ids(6, 1), rows.add(): ids(9, 2)}
    rows.forward([Feed(h, text, columns=()) for h, text in texts.items()])
    source, seen = random.Random(0), []
    for widths, kept in [((5, 1), (2, 1)), ((8, 8), (8, 3)), ((2, 7), (1, 7))]:
        fed = {h: [source.randrange(2, VOCAB) for _ in range(width)] for h, width in zip(texts, widths)}
        got = rows.forward([Feed(h, new, columns=range(len(new))) for h, new in fed.items()])
        want = [
            model.hf(torch.tensor([texts[h] + new], device=DEVICE)).logits[0, -len(new) :] for h, new in fed.items()
        ]
        seen.append((got, torch.cat(want)))
        for h, num_kept in zip(texts, kept):
            texts[h] += fed[h][:num_kept]
            rows.crop(h, len(texts[h]))
    assert (recorder.num_recorded, recorder.num_replayed) == (1, 3)
    for got, want in seen:  # the first too, after the others have been replayed
        assert torch.allclose(got, want, atol=1e-3)


def test_graphs_go_with_the_buffers_that_they_were_recorded_over(recorder):
    model = graphed(always=True, context_len=1024)
    cp.generate(model, ids(5), max_tokens=4, temperature=0, ignore_eos=True)
    assert len(model._fixed._graphs) == 1
    cp.generate(model, ids(300), max_tokens=4, temperature=0, ignore_eos=True)
    assert [views.num_positions for views in model._fixed._graphs] == [512]


def test_who_looks_into_the_forward_sees_every_step(recorder):
    model, seen = graphed(always=True), []
    model.abilities.reads_jointly(None)  # which tries it out
    handle = model.hf.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    cp.generate(model, ids(5), max_tokens=6, temperature=0, ignore_eos=True)
    assert len(seen) == 6 and not recorder.num_recorded
    handle.remove()
    cp.generate(model, ids(5), max_tokens=6, temperature=0, ignore_eos=True)
    assert len(seen) == 6 and recorder.num_recorded


def test_states_that_are_no_numbers_do_not_stay_in_the_buffers(recorder):
    model = graphed()
    rows = model.new_rows()
    rows.forward([Feed(rows.add(), ids(8))])
    rows._buffers.layers[0].values.fill_(float("nan"))
    del rows
    got = cp.generate(model, ids(5), max_tokens=6, temperature=0, ignore_eos=True)
    want, margins = guided_tokens(model.hf, ids(5), [], [], num_tokens=6)
    assert_same(got.token_ids, want, margins)


@pytest.mark.parametrize("fault", ["other logits", "an error"])
def test_what_can_not_be_recorded_is_told_once_and_runs_as_it_is(recorder, monkeypatch, fault):
    def wrong(work, device):
        if fault == "an error":
            raise RuntimeError("operation not permitted when stream is capturing")
        # It writes other keys and values too, which must not stay.
        graph, result = Recorder._again(lambda: work() * 1.1, device)
        return graph, result

    monkeypatch.setattr(graphs, "captured", wrong)
    model = graphed()
    with pytest.warns(CompileWarning, match="not recorded as CUDA graphs: ") as told:
        got = cp.generate(model, ids(5), max_tokens=12, temperature=0, ignore_eos=True)
    want, margins = guided_tokens(model.hf, ids(5), [], [], num_tokens=12)
    assert_same(got.token_ids, want, margins)
    assert len(told) == 1 and not model._fixed.usable


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("compile", ["auto", True])
def test_a_model_on_a_gpu_has_them_by_itself(compile):
    model = cp.Model(ARCHITECTURES["llama"].build().eval().to(DEVICE), compile=compile)
    got = cp.generate(model, ids(5), negative=ids(9), max_tokens=30, temperature=0, ignore_eos=True)
    want, margins = guided_tokens(model.hf, ids(5), [ids(9)], [-0.5], num_tokens=30)
    assert_same(got.token_ids, want, margins)
    assert isinstance(model._fixed, GraphedSteps) and model._fixed._graphs and model._fixed.usable
