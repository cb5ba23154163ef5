import math

import pytest
import torch

import counterpoint as cp
from counterpoint import formulas
from counterpoint.engine import Observation, prepare
from counterpoint.errors import UsageError
from counterpoint.trace import ArtefactLimits
from counterpoint.trace.recorder import Recorder

PROMPT, NEGATIVE, OTHER = "A happy girl sang.", "A sad dog sat alone.", "Once upon a time"
SPACES = ["log", "prob"]


def predicted(model, context, output_ids):
    """Log-probabilities (T, V) of each output token's step, from one forward over the whole."""
    ids = model.encode(context)
    with torch.inference_mode():
        logits = model.hf(torch.tensor([[*ids, *output_ids]])).logits[0, len(ids) - 1 : -1]
    return torch.log_softmax(logits.double(), -1)


def by_hand(space, cond, others, weights):
    if space == "log":
        guided = cond + sum(w * (other - cond) for w, other in zip(weights, others))
        return torch.log_softmax(guided, -1)
    probs = cond.exp() + sum(w * (other.exp() - cond.exp()) for w, other in zip(weights, others))
    probs = probs.clamp(min=0)
    return (probs / probs.sum(-1, keepdim=True)).log()


def entropy(p):
    return -(p * p.clamp(min=1e-300).log()).sum()


def divergence(p, q):
    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2) / math.log(2)


@pytest.mark.parametrize("space", SPACES)
def test_every_number_is_that_of_the_logits(model, space):
    branches = [cp.Branch(NEGATIVE, -1.5), cp.Branch(OTHER, -0.5)]
    trace = cp.trace.record(
        model,
        PROMPT,
        branches=branches,
        guide=cp.Guide(space=space),
        max_tokens=20,
        seed=3,
        ignore_eos=True,
        num_alternatives=4,
    )
    ids = [step.token_id for step in trace.steps]
    cond, *others = (predicted(model, text, ids) for text in (PROMPT, NEGATIVE, OTHER))
    guided = by_hand(space, cond, others, (-1.5, -0.5))
    assert len(trace.steps) == 20
    for i, step in enumerate(trace.steps):
        assert step.index == i and step.guidance == "applied"
        assert step.entropy == pytest.approx(float(entropy(cond[i].exp())), abs=1e-4)
        assert step.shift == pytest.approx(float(divergence(cond[i].exp(), guided[i].exp())), abs=1e-4)
        assert step.divergence == pytest.approx(
            [float(divergence(cond[i].exp(), o[i].exp())) for o in others], abs=1e-4
        )
        for seen, logprobs in zip((step.cond, *step.branches, step.guided), (cond, *others, guided), strict=True):
            assert seen.logprob == pytest.approx(float(logprobs[i, step.token_id]), abs=1e-3)
            # Two tokens within rounding of each other may change places.
            near = ((logprobs[i] - logprobs[i, step.token_id]).abs() < 1e-4).sum() - 1
            assert abs(seen.rank - int((logprobs[i] > logprobs[i, step.token_id]).sum()) - 1) <= near
            finite = int(torch.isfinite(logprobs[i]).sum())
            best = logprobs[i].topk(min(4, finite))
            assert [value for _, value in seen.top] == pytest.approx(best.values.tolist(), abs=1e-3)
            assert all(value == pytest.approx(float(logprobs[i, token]), abs=1e-3) for token, value in seen.top)
        assert step.push == pytest.approx(step.guided.logprob - step.cond.logprob)
        assert step.is_changed == (int(cond[i].argmax()) != int(guided[i].argmax()))


def test_entropy_and_divergence_are_those_of_the_formulas(model):
    rows = formulas.log_probs(torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 4)
    rows[1, 3], rows[2, 7], rows[0, 9] = float("-inf"), float("-inf"), float("-inf")
    request = prepare(model, PROMPT, negative=NEGATIVE)
    recorder = Recorder(request)
    recorder(0, Observation(0, 4, rows[0], rows[1:2], rows[2], True))
    (numbers,) = recorder.steps[0]
    assert numbers.entropy == pytest.approx(float(formulas.entropy(rows[:1])), abs=2e-6)
    expected = formulas.jensen_shannon(rows[:1], rows[None, 1:])[0].tolist()
    assert [*numbers.divergence, numbers.shift] == pytest.approx(expected, abs=2e-6)


def test_watching_changes_nothing(model):
    options = {"negative": NEGATIVE, "guide": cp.Guide(scale=2.0), "max_tokens": 15, "seed": 5}
    done, trace = cp.generate(model, PROMPT, **options), cp.trace.record(model, PROMPT, **options)
    assert tuple(step.token_id for step in trace.steps) == done.token_ids
    assert (trace.text, trace.finish_reason) == (done.text, done.finish_reason)


def test_artefact_needs_both_a_low_rank_and_a_low_probability(model):
    trace = cp.trace.record(
        model, PROMPT, negative=NEGATIVE, guide=cp.Guide(scale=4.0), max_tokens=30, seed=0, ignore_eos=True
    )
    for limits in (
        ArtefactLimits(),
        ArtefactLimits(rank=5, prob=0.02),
        ArtefactLimits(rank=1, prob=0.0),
        ArtefactLimits(rank=1, prob=1.0),
    ):
        marked = trace.with_limits(limits)
        expected = [
            s.index for s in trace.steps if s.cond.rank > limits.rank and math.exp(s.cond.logprob) < limits.prob
        ]
        assert [step.index for step in marked.artefacts] == expected
    assert (
        trace.with_limits(ArtefactLimits(rank=1, prob=1.0)).artefacts
        and not trace.with_limits(ArtefactLimits(prob=0.0)).artefacts
    )


@pytest.mark.filterwarnings("ignore::counterpoint.errors.NoEffectWarning")
def test_says_what_became_of_guidance(model):
    def states(**options):
        options = {"negative": NEGATIVE, "max_tokens": 6, "temperature": 0, "ignore_eos": True} | options
        return [step.guidance for step in cp.trace.record(model, PROMPT, **options).steps]

    assert states(guide=cp.Guide(scale=2.0)) == ["applied"] * 6
    assert states(guide=cp.Guide(scale=2.0, start=2, stop=4)) == ["outside"] * 2 + ["applied"] * 2 + ["outside"] * 2
    assert states(guide=cp.Guide(scale=2.0, gate=8.3)) == ["gated"] * 6
    assert states(negative=None, guide=None) == ["off"] * 6
    assert states(negative=None, guide=cp.Guide(scale=1.0, plausibility=0.5)) == ["applied"] * 6


def test_gate_marks_the_steps_below_it(model):
    free = cp.trace.record(model, PROMPT, max_tokens=20, temperature=0, ignore_eos=True)
    gate = sorted(step.entropy for step in free.steps)[10]
    trace = cp.trace.record(
        model,
        PROMPT,
        negative=NEGATIVE,
        guide=cp.Guide(scale=1.1, gate=gate),
        max_tokens=20,
        temperature=0,
        ignore_eos=True,
    )
    states = {step.guidance for step in trace.steps}
    assert states == {"applied", "gated"}
    assert all((step.entropy < gate) == (step.guidance == "gated") for step in trace.steps)


def test_ruled_out_tokens_are_no_alternatives(model):
    trace = cp.trace.record(
        model, PROMPT, negative=NEGATIVE, guide=cp.Guide(scale=3.0, plausibility=0.9), max_tokens=10, temperature=0
    )
    assert all(math.isfinite(logprob) for step in trace.steps for _, logprob in step.guided.top)
    assert min(len(step.guided.top) for step in trace.steps) < 5


def test_batch_of_requests_with_samples(model):
    asked = [
        prepare(model, PROMPT, negative=NEGATIVE, guide=cp.Guide(scale=s), max_tokens=5, seed=1, n=2)
        for s in (1.5, 3.0)
    ]
    traces = cp.trace.record_all(model, asked)
    assert [[t.sample for t in group] for group in traces] == [[0, 1], [0, 1]]
    alone = cp.trace.record(model, PROMPT, negative=NEGATIVE, guide=cp.Guide(scale=3.0), max_tokens=5, seed=2)
    assert [s.token_id for s in traces[1][1].steps] == [s.token_id for s in alone.steps]


def test_own_observer_still_watches(model):
    seen = []
    cp.trace.record(model, PROMPT, max_tokens=3, seed=0, ignore_eos=True, observe=lambda index, o: seen.append(o.step))
    assert seen == [0, 1, 2]


def test_without_a_tokenizer(model):
    bare = cp.Model(model.hf, name="bare")
    trace = cp.trace.record(bare, [5, 6, 7], negative=[8, 9], max_tokens=4, seed=0, ignore_eos=True)
    assert trace.text is None and trace.prompt is None and len(trace.steps) == 4
    assert trace.labels[trace.steps[0].token_id] == f"#{trace.steps[0].token_id}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m: cp.trace.record(m, PROMPT, num_alternatives=0),
            "num_alternatives is 0; use a count of alternatives, 1 or more",
        ),
        (lambda m: cp.trace.record(m, PROMPT, n=2), "n is 2; record traces one sample"),
        (lambda m: ArtefactLimits(rank=0), "the artefact rank is 0; use a whole number, 1 or more"),
        (lambda m: ArtefactLimits(prob=1.5), "the artefact probability is 1.5; use a number from 0 to 1"),
    ],
)
def test_mistakes(model, make, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        make(model)
