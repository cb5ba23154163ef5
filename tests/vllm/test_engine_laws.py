"""The laws of guidance on vLLM's engine, against a stateless loop, on one ordinary configuration."""

from __future__ import annotations

import json
import math
import random
import re

import numpy as np
import pytest
import torch
from engines import idle, scheduler_of, started
from stateless import Draw, Job, Stateless, loop, replay
from tiny_models import EOS_ID, save, tokenizer
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams
from vllm.v1.core.sched.interface import PauseState

from counterpoint.guide import Branch, Guide
from counterpoint.vllm import check, extra_args
from counterpoint.vllm.capacity import Capacity

PROMPT, NEGATIVE, THIRD = (
    tokenizer()(text)["input_ids"]
    for text in ("Once upon a time there was a fox", "Twice never", "A third voice, louder")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def model(folder):
    return Stateless(folder)


@pytest.fixture(scope="module")
def llm(folder):
    with started(folder, structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True}) as engine:
        yield engine


@pytest.fixture(autouse=True)
def nothing_left(llm):
    yield
    assert idle(llm)


def run(llm, prompts, params):
    """Outputs of prompts of token ids."""
    return llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)


def one(llm, guide=None, negative=None, branches=(), prompt=PROMPT, **settings):
    """The first output of one request, 12 greedy tokens unless the settings say otherwise."""
    args = None if guide is None else extra_args(guide, negative, branches=branches)
    settings = {"temperature": 0.0, "max_tokens": 12, **settings}
    return run(llm, [prompt], SamplingParams(extra_args=args, **settings))[0].outputs[0]


GUIDES = [
    Guide(scale=3.0),
    Guide(scale=0.0),
    Guide(scale=7.5, plausibility=0.1),
    Guide(scale=3.0, space="prob"),
    Guide(scale=2.0, adaptive="jsd"),
    Guide(scale=4.0, gate=1.5),
    Guide(scale=4.0, start=3, stop=8),
    Guide(scale=1.0, plausibility=0.5),
]


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_greedy_is_the_loop(llm, model, guide):
    contexts = [] if guide.scale == 1 else [NEGATIVE]
    job = Job(PROMPT, contexts, [1 - guide.scale] * len(contexts), guide)
    # Plausibility alone would change nothing of a greedy choice; reported log-probabilities it does.
    out = one(llm, guide, NEGATIVE if contexts else None, logprobs=None if contexts else 1)
    assert list(out.token_ids) == loop(model, job, max_tokens=12, ends=[EOS_ID])


def test_guidance_changes_the_text(llm):
    assert one(llm, Guide(scale=3.0), NEGATIVE).token_ids != one(llm).token_ids


def test_several_weighted_branches(llm, model):
    branches = [Branch(NEGATIVE, -0.7), Branch(THIRD, 0.4)]
    expected = loop(model, Job(PROMPT, [NEGATIVE, THIRD], [-0.7, 0.4]), max_tokens=12, ends=[EOS_ID])
    assert list(one(llm, Guide(), branches=branches).token_ids) == expected


def test_without_a_negative_the_last_prompt_token_is_it(llm, model):
    expected = loop(model, Job(PROMPT, [PROMPT[-1:]], [-1.0]), max_tokens=12, ends=[EOS_ID])
    assert list(one(llm, Guide(scale=2.0)).token_ids) == expected


def test_a_text_is_tokenized(llm):
    assert one(llm, Guide(scale=3.0), "Twice never").token_ids == one(llm, Guide(scale=3.0), NEGATIVE).token_ids


def test_scale_one_is_unguided_and_costs_no_branch(llm):
    before = scheduler_of(llm).metrics.counts.branches
    assert one(llm, Guide(scale=1.0)).token_ids == one(llm).token_ids
    assert scheduler_of(llm).metrics.counts.branches == before


@pytest.mark.parametrize("scale", [-2.0, 3.0, 40.0])
def test_negative_equal_to_the_prompt_is_unguided(llm, scale):
    assert one(llm, Guide(scale=scale), PROMPT).token_ids == one(llm).token_ids


def test_scale_zero_is_the_negatives_own_continuation(llm):
    assert one(llm, Guide(scale=0.0), NEGATIVE).token_ids == one(llm, prompt=NEGATIVE).token_ids


def test_seeded_sampling_is_the_loop_and_does_not_depend_on_company(llm, model):
    rng = random.Random(1)
    draws = [Draw(rng.choice([0.7, 1.3]), rng.choice([0, 30]), rng.choice([1.0, 0.8]), seed) for seed in range(8)]
    params = [
        SamplingParams(
            temperature=d.temperature, top_k=d.top_k, top_p=d.top_p, seed=d.seed, max_tokens=20,
            extra_args=extra_args(Guide(scale=2.0), NEGATIVE),
        )
        for d in draws
    ]  # fmt: skip
    together = [out.outputs[0].token_ids for out in run(llm, [PROMPT] * 8, params)]
    turned = [out.outputs[0].token_ids for out in run(llm, [PROMPT] * 8, params[::-1])][::-1]
    assert together == turned
    for ids, draw in zip(together, draws, strict=True):
        assert replay(model.guided(Job(PROMPT, [NEGATIVE], [-1.0]), ids[:-1]), ids, draw, len(PROMPT)) == []


def test_unseeded_sampling_gives_all_branches_one_token(llm):
    params = SamplingParams(temperature=1.5, max_tokens=30, extra_args=extra_args(Guide(scale=2.0), NEGATIVE))
    outputs = run(llm, [PROMPT] * 4, params)  # different tokens for a branch would be a Failure in the scheduler
    assert len({out.outputs[0].token_ids for out in map(_tupled, outputs)}) > 1


def _tupled(output):
    output.outputs[0].token_ids = tuple(output.outputs[0].token_ids)
    return output


def test_n_children_are_each_a_group(llm, model):
    params = SamplingParams(
        n=3, temperature=1.0, seed=5, max_tokens=15, extra_args=extra_args(Guide(scale=2.0), NEGATIVE)
    )
    outputs = run(llm, [PROMPT], params)[0].outputs
    for child, out in enumerate(outputs):
        rows = model.guided(Job(PROMPT, [NEGATIVE], [-1.0]), out.token_ids[:-1])
        assert replay(rows, out.token_ids, Draw(1.0, seed=5 + child), len(PROMPT)) == []


def test_penalties_come_after_guidance_and_count_the_request_alone(llm, model):
    def change(row, output):
        row = row.copy()
        for token in {*PROMPT, *output}:
            row[token] *= 1.3
        for token in output:
            row[token] -= 0.5
        for token in set(output):
            row[token] -= 0.2
        return row

    out = one(
        llm, Guide(scale=2.0), NEGATIVE, max_tokens=20,
        repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.2,
    )  # fmt: skip
    job = Job(PROMPT, [NEGATIVE], [-1.0])
    assert list(out.token_ids) == loop(model, job, max_tokens=20, ends=[EOS_ID], change=change)


def test_stop_strings_and_stop_tokens_end_the_whole_group(llm):
    free = one(llm, Guide(scale=3.0), NEGATIVE, max_tokens=12)
    stopped = one(llm, Guide(scale=3.0), NEGATIVE, stop_token_ids=[free.token_ids[5]])
    first = free.token_ids.index(free.token_ids[5])
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "stop"
    printable = next(c for c in free.text if c.isascii() and c.isprintable())
    stopped = one(llm, Guide(scale=3.0), NEGATIVE, stop=[printable])
    assert (stopped.text, stopped.finish_reason) == (free.text.partition(printable)[0], "stop")


def test_logprobs_are_those_of_the_guided_distribution(llm, model):
    out = one(llm, Guide(scale=3.0, space="prob"), NEGATIVE, logprobs=20, max_tokens=6)
    job = Job(PROMPT, [NEGATIVE], [-2.0], Guide(scale=3.0, space="prob"))
    rows = model.guided(job, out.token_ids[:-1])
    assert np.exp(rows).sum(-1) == pytest.approx(1)
    for row, given in zip(rows, out.logprobs, strict=True):
        finite = {token: entry.logprob for token, entry in given.items() if entry.logprob > -1e3}
        assert {token: row[token] for token in finite} == pytest.approx(finite, abs=1e-3)
        assert sum(np.exp(list(finite.values()))) <= 1 + 1e-5


MOODS = {
    "type": "object",
    "properties": {"mood": {"enum": ["kind", "rude", "calm"]}, "n": {"enum": [1, 22, 333]}},
    "required": ["mood", "n"],
    "additionalProperties": False,
}


def grammar_of(schema):
    """A matcher for a JSON schema, and what it leaves at its state as (V) of bool."""
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer(), vocab_size=272)
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(
        json.dumps(schema), any_whitespace=False, separators=(",", ":")
    )
    matcher = xgrammar.GrammarMatcher(grammar)

    def allowed():
        mask, row = xgrammar.allocate_token_bitmask(1, 272), torch.zeros(1, 272)
        matcher.fill_next_token_bitmask(mask)
        xgrammar.apply_token_bitmask_inplace(row, mask)
        return row[0].isfinite().numpy()

    return matcher, allowed


def constrained_loop(model, job, schema, ends=(EOS_ID,), max_tokens=60):
    """Greedy decoding where a grammar's mask conditions every branch before they are combined."""
    matcher, allowed = grammar_of(schema)
    masks, output = [allowed()], []
    while len(output) < max_tokens and (not output or output[-1] not in ends):
        output.append(int(model.guided(job, output, np.stack(masks))[-1].argmax()))
        assert matcher.accept_token(output[-1])
        if output[-1] not in ends:
            masks.append(allowed())
    return output


MASKED_GUIDES = [
    Guide(scale=3.0),
    Guide(scale=3.0, space="prob"),
    Guide(scale=3.0, space="prob", plausibility=0.3),
    Guide(scale=2.0, gate=0.4),
    Guide(scale=4.0, adaptive="jsd"),
    Guide(scale=4.0, start=4, stop=20),
]


@pytest.mark.parametrize("guide", MASKED_GUIDES, ids=str)
def test_a_json_schema_conditions_every_branch_before_guidance(llm, model, guide):
    out = one(llm, guide, NEGATIVE, max_tokens=60, structured_outputs=StructuredOutputsParams(json=MOODS))
    job = Job(PROMPT, [NEGATIVE], [1 - guide.scale], guide)
    assert list(out.token_ids) == constrained_loop(model, job, MOODS)
    assert json.loads(out.text)["mood"] in ("kind", "rude", "calm")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("min_tokens", [5, 40])
def test_json_is_valid_to_its_end_under_a_minimum_length(llm, min_tokens, temperature):
    """The grammar wins over `min_tokens` where it leaves nothing but the end."""
    out = one(
        llm, Guide(scale=3.0, space="prob", plausibility=0.3), NEGATIVE, max_tokens=80, min_tokens=min_tokens,
        temperature=temperature, seed=3, structured_outputs=StructuredOutputsParams(json=MOODS), logprobs=1,
    )  # fmt: skip
    assert out.finish_reason == "stop"
    assert json.loads(out.text)["n"] in (1, 22, 333)
    assert all(math.isfinite(entry.logprob) for step in out.logprobs for entry in step.values())


def test_many_grammars_with_few_sequences_do_not_block_one_another(llm):
    properties = {"a": {"enum": ["x", "yy"]}}
    schema = {"type": "object", "properties": properties, "required": ["a"], "additionalProperties": False}
    params = [
        SamplingParams(
            temperature=0.0, max_tokens=30, extra_args=extra_args(Guide(scale=2.0), NEGATIVE),
            structured_outputs=StructuredOutputsParams(json={**schema, "title": str(number)}),
        )
        for number in range(20)
    ]  # fmt: skip
    assert {out.outputs[0].text for out in run(llm, [PROMPT] * 20, params)} <= {'{"a":"x"}', '{"a":"yy"}'}


def test_a_minimum_length_never_leaves_a_step_without_a_token(llm):
    """Plausibility 1 leaves one token, and here that one is forbidden until the fifth."""
    guide = Guide(scale=2.0, plausibility=1.0)
    free = one(llm, guide, NEGATIVE, max_tokens=1, logprobs=1)
    settings = {"stop_token_ids": [free.token_ids[0]], "min_tokens": 5, "seed": 1, "temperature": 1.0}
    out = one(llm, guide, NEGATIVE, max_tokens=8, **settings)
    assert len(out.token_ids) >= 5
    assert free.token_ids[0] not in out.token_ids[:5]


def test_abort_ends_the_whole_group(llm):
    engine = llm.llm_engine
    params = SamplingParams(max_tokens=200, ignore_eos=True, extra_args=extra_args(Guide(scale=2.0), NEGATIVE))
    engine.add_request("gone", {"prompt_token_ids": PROMPT}, params)
    for _ in range(5):
        engine.step()
    assert len(scheduler_of(llm).running) == 2
    engine.abort_request(["gone"])
    assert idle(llm)


@pytest.mark.parametrize("event", ["the cache is reset", "no new requests for a while"])
def test_an_event_in_the_middle_changes_no_token(llm, event):
    engine, scheduler = llm.llm_engine, scheduler_of(llm)
    settings = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}
    expected = one(llm, Guide(scale=3.0), NEGATIVE, **settings).token_ids
    params = SamplingParams(**settings, extra_args=extra_args(Guide(scale=3.0), NEGATIVE))
    admitted, scheduler.max_num_active_reqs = scheduler.max_num_active_reqs, 3  # the second request is split
    for name in ("a", "b"):
        engine.add_request(name, {"prompt_token_ids": PROMPT}, params)
    for _ in range(5):
        engine.step()
    assert len(scheduler.running) == 3
    if event == "the cache is reset":
        assert scheduler.reset_prefix_cache(reset_running_requests=True)
    else:
        scheduler.set_pause_state(PauseState.PAUSED_NEW)
        finished = [output.request_id for _ in range(40) for output in engine.step() if output.finished]
        assert (finished, len(scheduler.running)) == (["a"], 0)
        scheduler.set_pause_state(PauseState.UNPAUSED)
    outputs = {} if event == "the cache is reset" else {"a": expected}
    while scheduler.has_requests():
        outputs |= {output.request_id: output.outputs[0].token_ids for output in engine.step() if output.finished}
    scheduler.max_num_active_reqs = admitted
    assert outputs == {"a": expected, "b": expected}


@pytest.fixture(params=["checked at the door", "checked by the scheduler"])
def refused(request, llm, monkeypatch):
    """Assert that a request is refused for a reason: where parameters are checked, and where that sees nothing."""

    def at_the_door(reason, params, name="0"):
        with pytest.raises(VLLMValidationError, match=reason):
            llm.llm_engine.add_request(name, {"prompt_token_ids": PROMPT}, params)
        assert not llm.llm_engine.has_unfinished_requests()

    def by_the_scheduler(reason, params, name="0"):
        before = scheduler_of(llm).metrics.counts.refused_requests
        llm.llm_engine.add_request(name, {"prompt_token_ids": PROMPT}, params)
        output = next(output for _ in range(20) for output in llm.llm_engine.step() if output.finished).outputs[0]
        assert (list(output.token_ids), output.finish_reason) == ([], "error")
        assert re.search(reason, output.stop_reason)
        assert scheduler_of(llm).metrics.counts.refused_requests == before + 1

    if request.param == "checked at the door":
        return at_the_door
    monkeypatch.setattr(check, "_arriving", lambda: None)
    return by_the_scheduler


@pytest.mark.parametrize("name", ["chatcmpl-1", "0_chatcmpl-1_2"])
def test_a_chats_text_is_never_read_without_the_template(refused, name):
    params = SamplingParams(max_tokens=3, extra_args=extra_args(Guide(scale=3.0), "Twice never"))
    refused("chat template", params, name)


def test_a_beam_search_over_http_is_refused(refused):
    params = SamplingParams(max_tokens=1, logprobs=4, detokenize=False)
    refused("beam search", params, "cmpl-1-0123-beam-0")


def test_an_offline_beam_search_is_vllms_own(llm):
    params = BeamSearchParams(beam_width=2, max_tokens=3)
    assert len(llm.beam_search([{"prompt_token_ids": PROMPT}], params)[0].sequences) == 2


def test_a_context_is_used_to_its_end(llm, model):
    long = (PROMPT * 8)[:250]
    out = one(llm, Guide(scale=2.0), long, max_tokens=100, ignore_eos=True)
    assert (len(out.token_ids), out.finish_reason) == (6, "length")
    assert list(out.token_ids) == loop(model, Job(PROMPT, [long], [-1.0]), max_tokens=6)
    assert one(llm, Guide(scale=2.0), long, prompt=long, max_tokens=6, ignore_eos=True).token_ids


@pytest.mark.parametrize(
    ("negative", "reason"),
    [([1] * 256, "the model's context has 256"), ([5, 272], "token id 272"), ([1] * 300, "context")],
)
def test_what_can_not_be_guided_is_refused_before_the_first_token(refused, negative, reason):
    refused(reason, SamplingParams(extra_args=extra_args(Guide(scale=2.0), negative)))


def test_more_branches_than_there_is_room_for_are_refused(refused):
    long = [Branch([1] * 250, 0.1) for _ in range(14)]
    refused("blocks of the cache", SamplingParams(extra_args=extra_args(Guide(), branches=long)))
    many = [Branch([1], 0.1) for _ in range(16)]
    refused("17 branches", SamplingParams(extra_args=extra_args(Guide(), branches=many)))


def test_what_is_checked_at_the_door_is_what_the_scheduler_has(llm):
    scheduler = scheduler_of(llm)
    assert Capacity.configured(scheduler.vllm_config) == scheduler.capacity


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (Guide(scale=2.0, start=20), "starts at token 20 and the output has at most 9"),
        (Guide(scale=2.0, gate=9.0), "the gate is 9.0 nats"),
        (Guide(scale=2.0, plausibility=1.0), "greedy"),
    ],
    ids=str,
)
def test_guidance_that_can_do_nothing_is_refused(refused, guide, reason):
    refused(reason, SamplingParams(temperature=0.0, max_tokens=9, extra_args=extra_args(guide, NEGATIVE)))


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"guidance_scale": "3"}, "use a number"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"guidance": {"stop": 0}}, "no effect"),
        ({"guidance": {"spce": "prob"}}, "spce"),
        ({"negative_prompt": 3}, "not empty"),
    ],
)
def test_what_has_no_meaning_is_refused_at_the_door(llm, args, reason):
    with pytest.raises(VLLMValidationError, match=reason):
        run(llm, [PROMPT], SamplingParams(extra_args=args))
