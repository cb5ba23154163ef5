"""Requests that nobody waits for: they give way, and their tokens are those they get alone."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from engine.oracle import run_to_the_end

import counterpoint as cp
from counterpoint.engine import Engine, prepare

OPTIONS = {"ignore_eos": True, "guide": cp.Guide(scale=2.0)}


@pytest.fixture(params=["llama", "gemma3", "mamba"])
def model(request):
    return cp.Model(ARCHITECTURES[request.param].model())


def tokens(model, prompt, **options):
    return cp.generate(model, prompt, **OPTIONS | options).token_ids


@pytest.mark.parametrize("repeatable", [False, True])
def test_tokens_are_those_alone_whoever_comes_between(model, repeatable):
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(1, 60, (length,), generator=generator).tolist() for length in (3, 40, 12, 40, 5, 9, 30, 4)]
    prompts[3] = prompts[1][:30] + prompts[3][:10]  # begins like one that may hold still
    prompts[6] = prompts[1] + prompts[6]
    options = [{"max_tokens": 5 + 4 * k, "temperature": 0.8, "seed": k} for k in range(len(prompts))]
    want = [tokens(model, prompt, **one) for prompt, one in zip(prompts, options)]
    engine = Engine(
        model, max_rows=6, background_rows=2, prefill_tokens=16, idle_prefill_tokens=16, repeatable=repeatable,
        prefix_tokens=0 if repeatable else 64,
    )  # fmt: skip
    done, numbers, step = {}, {}, 0
    arrivals = {0: [0, 1, 2], 6: [3], 7: [4], 15: [5, 6], 30: [7]}
    while arrivals or not engine.is_idle:
        for k in arrivals.pop(step, ()):
            background = k in (0, 1, 2, 5)
            numbers[engine.add(prepare(model, prompts[k], **OPTIONS | options[k]), background=background)] = k
        step += 1
        for progress in engine.step():
            if progress.completion is not None:
                done[numbers[progress.request_id]] = progress.completion.token_ids
    assert done == dict(enumerate(want))
    assert engine.num_rows == 0 and engine.num_background == 0


@pytest.mark.parametrize("num_samples", [1, 3])
def test_others_take_as_many_steps_as_alone(model, num_samples):
    def steps(num_background):
        engine = Engine(model, max_rows=6, background_rows=2, idle_prefill_tokens=8)
        for k in range(num_background):
            prompt = [5 + k, *range(10, 60)]
            engine.add(prepare(model, prompt, max_tokens=50, **OPTIONS), background=True)
        for _ in range(5):
            engine.step()
        assert engine.num_background == min(3, num_background)
        # The second background sample holds still while its prompt is being read; nobody waits for it.
        live = engine.add(prepare(model, [6, *range(10, 50)], max_tokens=6, n=num_samples, **OPTIONS))
        for count in range(1, 100):
            if any(
                p.completion is not None and p.index == num_samples - 1 for p in engine.step() if p.request_id == live
            ):
                done, _ = run_to_the_end(engine)
                assert len(done) == num_background
                return count

    assert steps(0) == steps(1) == steps(5)


def test_some_go_on_beside_others(model):
    """A server that is never idle does not starve them."""
    engine = Engine(model, max_rows=8, background_rows=2)
    for k in range(3):
        engine.add(prepare(model, [5 + k, 6, 7], max_tokens=4, **OPTIONS), background=True)
    done, live = set(), engine.add(prepare(model, [9, 8], max_tokens=30, **OPTIONS))
    while live not in done:
        most = engine.num_background
        done |= {p.request_id for p in engine.step() if p.completion is not None}
        assert most <= 1
    assert done == {0, 1, 2, live}


def test_a_background_request_can_be_cancelled_wherever_it_is(model):
    engine = Engine(model, max_rows=4, background_rows=2)
    ids = [engine.add(prepare(model, [5 + k, 6], max_tokens=20, **OPTIONS), background=True) for k in range(4)]
    engine.step()
    engine.add(prepare(model, [9, 8], max_tokens=3, n=2, **OPTIONS))
    engine.step()
    for request_id in ids:
        engine.cancel(request_id)
    run_to_the_end(engine)
    assert engine.num_rows == 0 and engine.is_idle
