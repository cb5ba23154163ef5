"""Tokens that are given instead of drawn, outputs that may not end early, and numbers where guidance rules tokens out."""

import dataclasses
import math

import pytest
import torch
from server.conftest import make_model

import counterpoint as cp
from counterpoint.engine import Engine, prepare

PROMPT, NEGATIVE = "Once upon a time there was", "In the end there was not"


@pytest.fixture(scope="module")
def model():
    return make_model()


def run(model, request, **options):
    engine = Engine(model, **options)
    engine.add(request)
    return [p.completion for p in engine.run() if p.completion is not None]


def plain_score(model, prompt, negative, given, guide):
    """The same by whole forwards, nothing kept."""
    scores = []
    for at, token_id in enumerate(given):
        rows = [[*context, *given[:at]] for context in ([prompt, negative] if negative else [prompt])]
        logprobs = [torch.log_softmax(model.hf(torch.tensor([row])).logits[0, -1].float(), -1) for row in rows]
        cond = logprobs[0]
        if negative:
            other = logprobs[1]
            if guide.space == "log":
                cond = torch.log_softmax(other + guide.scale * (cond - other), -1)
            else:
                q = (other.exp() + guide.scale * (cond.exp() - other.exp())).clamp(min=0)
                cond = (q / q.sum()).log()
        scores.append(float(cond[token_id]))
    return scores


@pytest.mark.parametrize("guide", [None, cp.Guide(scale=2.0), cp.Guide(scale=1.5, space="prob")])
@pytest.mark.parametrize("options", [{}, {"prefill_tokens": 5}, {"draft_tokens": 4}])
def test_given_tokens_are_scored_as_whole_forwards_score_them(model, guide, options):
    ids, negative = model.encode(PROMPT), model.encode(NEGATIVE)
    request = prepare(
        model, ids[:3], negative=negative if guide else None, guide=guide, max_tokens=len(ids) - 3, logprobs=2,
        ignore_eos=True, temperature=0,
    )  # fmt: skip
    (done,) = run(model, dataclasses.replace(request, given_ids=tuple(ids[3:])), **options)
    assert done.token_ids == tuple(ids[3:])
    with torch.inference_mode():
        want = plain_score(model, ids[:3], negative if guide else None, ids[3:], guide)
    got = [t.logprob for t in done.logprobs]
    for a, b in zip(got, want):
        assert a == b == -math.inf or a == pytest.approx(b, abs=1e-4)


def test_given_tokens_take_few_steps(model):
    ids = model.encode(PROMPT * 4)
    request = prepare(model, ids[:1], max_tokens=len(ids) - 1, logprobs=0, temperature=0, ignore_eos=True)
    engine, num_steps = Engine(model, prefill_tokens=64), 0
    engine.add(dataclasses.replace(request, given_ids=tuple(ids[1:])))
    while not engine.is_idle:
        engine.step()
        num_steps += 1
    assert num_steps <= 2 + len(ids) // 60


def test_an_output_does_not_end_early(model):
    free = cp.generate(model, PROMPT, max_tokens=12, temperature=0)
    end = free.token_ids[3]
    short = cp.generate(model, PROMPT, max_tokens=12, temperature=0, stop_ids=[end])
    assert len(short.token_ids) <= 4
    request = prepare(model, PROMPT, max_tokens=12, temperature=0, stop_ids=[end], logprobs=3)
    (longer,) = run(model, dataclasses.replace(request, min_tokens=8))
    assert len(longer.token_ids) >= 8 and end not in longer.token_ids[:7]
    (text_stop,) = run(
        model,
        dataclasses.replace(prepare(model, PROMPT, max_tokens=12, temperature=0, stop=free.text[2]), min_tokens=6),
    )
    assert text_stop.text[:5] == free.text[:5]


@pytest.mark.parametrize("guide", [cp.Guide(scale=2, plausibility=0.1), cp.Guide(scale=3, space="prob")])
def test_what_is_ruled_out_is_no_alternative(model, guide):
    done = cp.generate(model, PROMPT, negative=NEGATIVE, guide=guide, max_tokens=8, logprobs=250, temperature=0)
    assert any(len(t.top) < 250 for t in done.logprobs)
    assert all(math.isfinite(value) for t in done.logprobs for _, value in (*t.top, (0, t.logprob)))


def test_where_the_prompt_decides_its_numbers_are_told(model):
    """Guidance leaves one token and the processor another: the prompt's distribution decides, and is reported."""
    guide = cp.Guide(scale=2, plausibility=1.0)
    free = cp.generate(model, PROMPT, negative=NEGATIVE, guide=guide, max_tokens=1, temperature=1, seed=1, logprobs=0)
    other = (free.token_ids[0] + 1) % 250

    def only(prompt_ids, output_ids, scores):
        mask = torch.full_like(scores, -math.inf)
        mask[other] = 0
        return scores + mask

    done = cp.generate(
        model,
        PROMPT,
        negative=NEGATIVE,
        guide=guide,
        max_tokens=1,
        temperature=1,
        seed=1,
        logprobs=0,
        processors=[only],
    )
    with torch.inference_mode():
        cond = torch.log_softmax(model.hf(torch.tensor([model.encode(PROMPT)])).logits[0, -1].float(), -1)
    assert done.token_ids == (other,) and done.logprobs[0].logprob == pytest.approx(float(cond[other]), abs=1e-4)


@pytest.mark.parametrize("seed", [0, 2**62, 2**63, 2**64 - 1])
def test_every_seed_of_64_bits(model, seed):
    options = {"max_tokens": 6, "temperature": 1.0, "ignore_eos": True}
    a, b = cp.generate(model, PROMPT, seed=seed, n=2, **options)
    assert cp.generate(model, PROMPT, seed=(seed + 1) % 2**64, **options).token_ids == b.token_ids
    assert a.token_ids != b.token_ids
