"""`Engine.complete`: requests to their ends, in their order, beside whatever else runs."""

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import counterpoint as cp
from counterpoint.engine import Engine, prepare
from counterpoint.errors import PromptError
from counterpoint.models.loading import BUNDLED


@pytest.fixture(scope="module")
def model():
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=len(tokenizer), n_positions=64)
    return cp.Model(GPT2LMHeadModel(config), tokenizer, name="tiny")


def test_samples_come_in_the_order_of_the_requests_whatever_ends_first(model):
    lengths = [9, 2, 5]
    requests = [prepare(model, "ab", n=2, max_tokens=k, ignore_eos=True, seed=k, negative="b") for k in lengths]
    seen = []
    done = Engine(model, max_rows=4).complete(requests, on_progress=seen.append)
    assert [[c.index for c in samples] for samples in done] == [[0, 1]] * 3
    assert [len(c.token_ids) for samples in done for c in samples] == [9, 9, 2, 2, 5, 5]
    assert sum(p.token_id is not None for p in seen) == 2 * sum(lengths)
    for k, samples in zip(lengths, done):
        alone = cp.generate(model, "ab", n=2, max_tokens=k, ignore_eos=True, seed=k, negative="b")
        assert [c.token_ids for c in samples] == [c.token_ids for c in alone]


def test_others_of_the_engine_run_on(model):
    engine = Engine(model)
    other = engine.add(prepare(model, "abc", max_tokens=20, ignore_eos=True))
    engine.complete([prepare(model, "ab", max_tokens=3, ignore_eos=True)])
    assert engine.num_running == 1
    rest = [p for p in engine.run() if p.completion is not None]
    assert [(p.request_id, len(p.completion.token_ids)) for p in rest] == [(other, 20)]


def test_what_fails_leaves_the_engine_as_it_was(model):
    def broken(prompt_ids, output_ids, scores):
        raise RuntimeError("no")

    good = prepare(model, "ab", max_tokens=5)
    engine = Engine(model)
    with pytest.raises(RuntimeError, match="no"):
        engine.complete([good, prepare(model, "ab", processors=[broken])])
    assert engine.is_idle and engine.num_rows == 0
    too_long = prepare(cp.load("bundled"), list(range(1, 99)))
    with pytest.raises(PromptError, match="holds 64"):
        engine.complete([good, too_long])
    assert engine.is_idle and engine.num_rows == 0
    assert engine.complete([]) == []


def test_no_room_has_a_loop_of_its_own():
    """What collects completions by hand is a copy of `complete`; those that stay have their reason here."""
    from pathlib import Path

    loops = {
        "engine/loop.py": "it is `complete`",
        "engine/generate.py": "yields each piece as it comes",
        "batch/run.py": "a window of many, each error its own line",
        "server/worker.py": "runs for ever, told from outside",
        "bench/ways.py": "times each step",
        "bench/measure.py": "times each step",
        "cli/talk/session.py": "one engine for all turns of a conversation, stopped by Ctrl-C",
    }
    source = Path(cp.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text()
        if ".run()" in text and "engine" in text and "progress" in text.lower() or "engine.step()" in text:
            assert str(path.relative_to(source)) in {*loops, "cli/many.py"}, path
