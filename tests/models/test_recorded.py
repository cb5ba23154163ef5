"""Forwards as recorded programs: the logits of the model's own forward, on any rows; refused where they can't be."""

import re

import pytest
import torch
from conformance.architectures import ARCHITECTURES, VOCAB
from engine.oracle import assert_same, guided_tokens

import counterpoint as cp
from counterpoint.errors import CompileWarning
from counterpoint.models.attention import FewQueries
from counterpoint.models.int8 import to_int8
from counterpoint.models.kernels import build, step
from counterpoint.models.linears import Linears
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.recorded.steps import RecordedSteps
from counterpoint.models.rows import Feed
from models import small

pytestmark = pytest.mark.skipif(not build.has_compiler(), reason="no C compiler")
RECORDED = ["gpt2", "llama", "qwen3", "gemma3", "mistral"]
DTYPES = [torch.float32, torch.bfloat16]


def both(hf):
    """Rows that go through a program, and rows that don't."""
    linears, attention = Linears(hf, compiled=True), FewQueries(hf, compiled=True)
    steps = RecordedSteps(hf)
    return RaggedRows(hf, None, linears, attention, steps), RaggedRows(hf, None, linears, attention), steps


def text(length, seed=0):
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RECORDED)
def test_logits_of_the_models_own_forward(name, dtype):
    """Ragged rows, read in parts, forked, cut back, freed, through windows and a growth of the buffers."""
    torch.manual_seed(0)
    hf = ARCHITECTURES[name].build().eval().to(dtype)
    got, want, steps = both(hf)
    longest = min(hf.config.get_text_config().max_position_embeddings, 300) - 12

    def check(make):
        ours, own = make(got), make(want)
        close = 1e-5 if dtype is torch.float32 else 2.0**-5
        assert (ours - own).abs().max() <= close * own.abs().max()

    long, short = [(rows.add(), rows.add()) for rows in (got, want)][0]
    check(lambda rows: rows.forward([Feed(long, text(17)), Feed(short, text(3, 1), columns=())]))
    check(lambda rows: rows.forward([Feed(short, [5]), Feed(long, [9])]))
    check(lambda rows: rows.forward([Feed(long, text(20, 2), columns=(0, 7, -1)), Feed(short, text(2, 3), scratch=1)]))
    at = got.length(long)
    while at < longest:
        num = min(48, longest - at)
        check(lambda rows, num=num, at=at: rows.forward([Feed(long, text(num, at)), Feed(short, [at % VOCAB])]))
        at = got.length(long)
    forks = [rows.fork(long, longest - 5) for rows in (got, want)]
    assert forks[0] == forks[1] and steps.refused is None
    check(lambda rows: rows.forward([Feed(forks[0], [3, 4]), Feed(long, [1])]))
    for rows in (got, want):
        rows.crop(long, 20)
        rows.free(short)
    check(lambda rows: rows.forward([Feed(long, text(4, 8), columns=range(4)), Feed(forks[0], [7])]))
    more = [[rows.add() for _ in range(9)] for rows in (got, want)][0]
    check(lambda rows: rows.forward([Feed(row, text(row + 1, row)) for row in more]))
    check(lambda rows: rows.forward([Feed(row, [row]) for row in [long, *more]]))
    assert steps.refused is None and steps._program is not None


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_in_8_bits(dtype):
    hf = ARCHITECTURES["llama"].build().eval().to(dtype)
    to_int8(hf)
    got, want, steps = both(hf)
    rows = [(r.add(), r.add()) for r in (got, want)][0]
    for ids in ([text(12), text(5, 1)], [[3], [4]], [[5], [6]]):
        ours, own = (r.forward([Feed(row, own) for row, own in zip(rows, ids)]) for r in (got, want))
        assert (ours - own).abs().max() <= (1e-5 if dtype is torch.float32 else 2.0**-6) * own.abs().max()
    assert (steps.refused is None) == (steps._program is not None)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype):
    """To the bit, as far as rows say so themselves."""
    hf = ARCHITECTURES["llama"].build().eval().to(dtype)
    rows, _, _ = both(hf)
    several = [rows.add() for _ in range(rows.most_alike)]
    for row in several:
        rows.forward([Feed(row, text(7 + row, row))])
    again = [rows.fork(row) for row in several]
    together = rows.forward([Feed(row, [5]) for row in several])
    alone = [rows.forward([Feed(row, [5])])[0] for row in again]
    assert rows.most_alike > 1 and torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("name", RECORDED)
def test_tokens_of_a_stateless_loop(name):
    hf = ARCHITECTURES[name].build().eval()
    model = cp.Model(hf)
    done = cp.generate(
        model,
        [5, 9, 13],
        negative=[7, 3, 11, 2],
        guide=cp.Guide(scale=3.0),
        max_tokens=40,
        temperature=0,
        ignore_eos=True,
    )
    tokens, margins = guided_tokens(hf, [5, 9, 13], [[7, 3, 11, 2]], [-2.0], num_tokens=40)
    assert_same(done.token_ids, tokens, margins)
    assert model._recorded._program is not None and model._recorded.refused is None


@torch.inference_mode()
@pytest.mark.parametrize("build_model", [small.dynamic, small.phi3, lambda: ARCHITECTURES["mixtral"].build().eval()])
def test_what_looks_at_numbers_is_not_recorded(build_model):
    """Rotary frequencies by the longest position, and experts by what a router says."""
    rows, own, steps = both(build_model())
    row, same = rows.add(), own.add()
    assert torch.equal(rows.forward([Feed(row, text(9))]), own.forward([Feed(same, text(9))]))
    assert steps.refused and steps._program is None


@pytest.mark.parametrize(
    "build_model, said",
    [
        (small.dynamic, r"model.rotary_emb \(LlamaRotaryEmbedding\): "),
        (lambda: ARCHITECTURES["mixtral"].build().eval(), r"model.layers.0.mlp\S* \(Mixtral\w+\): "),
        (lambda: ARCHITECTURES["qwen2_5_vl"].build().eval(), r"rotary_emb \(Qwen2_5_VLRotaryEmbedding\): "),
        (lambda: ARCHITECTURES["bloom"].build().eval(), "its rows don't share a forward"),
    ],
)
def test_why_a_model_is_not_recorded_is_told(build_model, said):
    hf = build_model()
    assert re.search(said, cp.Model(hf).not_recorded())
    assert not any(
        any(hooks) for module in hf.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
    )


def test_a_recorded_model_says_so_and_what_would_keep_it_from_it():
    hf = ARCHITECTURES["llama"].build().eval()
    assert "compile is False" in cp.Model(hf, compile=False).not_recorded()
    model = cp.Model(hf)
    hook = hf.model.layers[0].register_forward_hook(lambda *_: None)
    assert "hooks" in model.not_recorded()
    hook.remove()
    assert model.not_recorded() is None


def test_hooks_and_adapters_take_the_models_own_forward():
    hf, seen = ARCHITECTURES["llama"].build().eval(), []
    rows, _, steps = both(hf)
    row = rows.add()
    rows.forward([Feed(row, text(5))])
    rows.forward([Feed(row, [3])])
    assert steps.usable
    layer = next(module for module in hf.modules() if isinstance(module, torch.nn.Linear))
    hook = layer.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    assert not steps.usable
    rows.forward([Feed(row, [4])])
    assert len(seen) == 1
    hook.remove()
    assert steps.usable
    hf.peft_config = {"default": None}
    assert not steps.usable


@pytest.mark.parametrize("wrong", [("SILU", "SIGMOID"), ("SIN", "COS"), ("MEAN", "SUM"), ("ADD", "SUB")])
def test_a_wrong_program_is_noticed(monkeypatch, wrong):
    right = step.operations()
    monkeypatch.setattr(step, "operations", lambda: right | {wrong[0]: right[wrong[1]]})
    hf = ARCHITECTURES["llama"].build().eval()
    rows, own, steps = both(hf)
    row, same = rows.add(), own.add()
    with pytest.warns(CompileWarning, match="differ from those of the model's own forward"):
        got = rows.forward([Feed(row, text(9))])
    assert torch.equal(got, own.forward([Feed(same, text(9))])) and not steps.usable
    assert torch.equal(rows.forward([Feed(row, [3])]), own.forward([Feed(same, [3])]))


def test_an_id_that_is_in_no_table_is_an_error():
    hf = ARCHITECTURES["llama"].build().eval()
    rows, _, steps = both(hf)
    row = rows.add()
    rows.forward([Feed(row, text(3))])
    rows.forward([Feed(row, [3])])
    with pytest.raises(IndexError):
        rows.forward([Feed(row, [VOCAB + 50])])
    assert steps.usable


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same(dtype):
    torch.manual_seed(0)
    hf, before, found = ARCHITECTURES["qwen3"].build().eval().to(dtype), torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            rows, _, steps = both(hf)
            held = [rows.add(), rows.add()]
            first = rows.forward([Feed(row, text(17 - row, row)) for row in held])
            found.append(torch.cat([first, rows.forward([Feed(row, [3]) for row in held])]))
            assert steps.refused is None
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
