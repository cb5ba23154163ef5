"""What a server needs of the loop: one request's failure is its own, and no prompt holds up the others."""

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from engine.oracle import run_to_the_end

import counterpoint as cp
from counterpoint.engine import Engine, prepare

GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(params=["llama", "mamba"])
def model(request):
    return cp.Model(ARCHITECTURES[request.param].model())


def alone(model, prompt):
    return cp.generate(model, prompt, guide=cp.Guide(scale=2.0), max_tokens=8, **GREEDY).token_ids


def test_a_processor_that_fails_ends_its_own_request(model):
    def broken(prompt_ids, output_ids, scores):
        if len(output_ids) == 3:
            raise OSError("broken")
        return scores

    want = [alone(model, prompt) for prompt in ([5, 6, 7], [8, 9])]
    engine = Engine(model)
    for prompt, processors in (([5, 6, 7], ()), ([5, 6], (broken,)), ([8, 9], ())):
        engine.add(prepare(model, prompt, guide=cp.Guide(scale=2.0), max_tokens=8, processors=processors, **GREEDY))
    done, failed = run_to_the_end(engine)
    assert [done[0], done[2]] == want
    assert isinstance(failed[1], OSError) and list(failed) == [1]
    assert engine.num_rows == 0


def test_a_forward_that_fails_ends_the_request_it_fails_for(model):
    poison = 77
    want = [alone(model, prompt) for prompt in ([5, 6, 7], [8, 9])]

    def refuse(module, args):
        if (args[0] == poison).any():
            raise MemoryError("too much")

    hook = model.hf.get_input_embeddings().register_forward_pre_hook(refuse)
    try:
        engine = Engine(model)
        for prompt in ([5, 6, 7], [5, poison], [8, 9]):
            engine.add(prepare(model, prompt, guide=cp.Guide(scale=2.0), max_tokens=8, **GREEDY))
        done, failed = run_to_the_end(engine)
    finally:
        hook.remove()
    assert [done[0], done[2]] == want
    assert isinstance(failed[1], MemoryError) and list(failed) == [1]
    assert engine.num_rows == 0


def test_run_raises_what_failed(model):
    def broken(prompt_ids, output_ids, scores):
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        cp.generate(model, [5, 6], max_tokens=4, processors=[broken])


def forwards_of(model):
    """Tokens in each forward of the model from now on, padding included."""
    seen = []
    model.hf.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return seen


def llama():
    torch.manual_seed(0)
    return cp.Model(ARCHITECTURES["llama"].build().eval())


def test_a_short_prompt_overtakes_a_long_one_and_many_short_ones_do_not_stop_it():
    model = llama()
    engine = Engine(model, prefill_tokens=16, idle_prefill_tokens=16)
    long = engine.add(prepare(model, [3] * 200, max_tokens=2, **GREEDY))
    engine.step()
    short = engine.add(prepare(model, [4, 5, 6], max_tokens=2, **GREEDY))
    assert [p.request_id for p in engine.step()] == [short]
    seen = forwards_of(model)
    finished, steps = [], 0
    while long not in finished:
        engine.add(prepare(model, [7] * 9, max_tokens=1, **GREEDY))  # always something shorter
        finished += [p.request_id for p in engine.step() if p.completion]
        steps += 1
        assert steps < 60
    assert max(seen) <= 2 * 16  # rows of like width are padded to the widest
    assert steps <= 2 + (200 - 24) // 8


def test_without_a_bound_a_lone_prompt_is_read_at_once():
    model = llama()
    seen = forwards_of(model)
    engine = Engine(model, prefill_tokens=16)
    engine.add(prepare(model, [3] * 200, max_tokens=1, **GREEDY))
    engine.step()
    assert seen[-1] == 200


@pytest.mark.parametrize("pauses", [True, False])
def test_rows_are_told_how_much_is_to_come_only_where_a_step_may_take_longer(pauses):
    model, told = llama(), []
    engine = Engine(model, pauses=pauses, max_rows=2)
    for prompt in ([5, 6], [7, 8, 9], [4, 3]):
        engine.add(prepare(model, prompt, guide=cp.Guide(scale=2.0), max_tokens=3, **GREEDY))
    engine._rows_of(model).expect = lambda *values: told.append(values)
    list(engine.run())
    want = [(steps, rounds) for rounds in (3, 2, 1) for steps in (3, 2, 1)]
    assert told == (want if pauses else [])
