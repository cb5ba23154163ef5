"""Scores of options under a guide, and what is made of them."""

import math

import pytest
import torch

import counterpoint as cp
from counterpoint.contexts import Suffix
from counterpoint.errors import NoEffectWarning, UsageError

PROMPTS = ["The story was happy. It was", "A sad end:", "The girl sang and"]
OPTIONS = [" good", " very bad", " so sad today"]


@pytest.fixture(scope="module")
def model():
    return cp.load("bundled")


@torch.inference_mode()
def by_definition(model, prompt, option, negative, guide):
    """The option's guided log-likelihood, every token from a forward of its own."""
    ids, other = model.encode(prompt), model.encode(negative)
    rest = model.encode(prompt + option)[len(ids) :]
    total = 0.0
    for at, token_id in enumerate(rest):
        cond, neg = (
            model.hf(torch.tensor([[*row, *rest[:at]]])).logits[0, -1].float().log_softmax(-1) for row in (ids, other)
        )
        if guide.space == "log":
            guided = (neg + guide.scale * (cond - neg)).log_softmax(-1)
        else:
            mixed = (guide.scale * cond.exp() + (1 - guide.scale) * neg.exp()).clamp(min=0)
            guided = (mixed / mixed.sum()).log()
        total += float(guided[token_id])
    return total


@pytest.mark.parametrize("guide", [cp.Guide(scale=2.0), cp.Guide(scale=3.0, space="prob")], ids=str)
def test_scores_are_those_of_the_definition(model, guide):
    done = cp.assign(model, PROMPTS, OPTIONS, negative="It rained.", guide=guide)
    for i, prompt in enumerate(PROMPTS):
        for j, option in enumerate(OPTIONS):
            want = by_definition(model, prompt, option, "It rained.", guide)
            assert done.logprobs[i][j] == pytest.approx(want, abs=2e-3) or done.logprobs[i][j] == want == -math.inf
    assert done.chosen == done.alone and sum(done.loss) == 0 == done.best.loss


def test_capacities_are_kept_and_a_run_goes_on(model, tmp_path):
    seen = []
    given = {"negative": "It rained.", "guide": cp.Guide(scale=2.0), "store": tmp_path / "scores", "batch_size": 2}
    capacity = {" good": 1, " very bad": 1, " so sad today": (1, 1)}
    done = cp.assign(model, PROMPTS, OPTIONS, capacity=capacity, **given, on_progress=lambda *at: seen.append(at))
    assert done.counts == dict.fromkeys(OPTIONS, 1) and sum(done.loss) == pytest.approx(done.best.loss)
    assert seen == [(0, 9), (2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]

    class Killed(Exception):
        pass

    def kill(count, total):
        if count > 11:
            raise Killed

    more = [*PROMPTS, "The boat was", "He said it was"]
    with pytest.raises(Killed):
        cp.assign(model, more, OPTIONS, **given, on_progress=kill)
    seen.clear()
    again = cp.assign(model, more, OPTIONS, **given, on_progress=lambda *at: seen.append(at))
    assert seen[0] == (13, 15)  # nine of the first run, four before it was killed
    afresh = cp.assign(model, more, OPTIONS, **given | {"store": None})
    for row, want in zip(again.logprobs, afresh.logprobs):
        assert row == pytest.approx(want, abs=1e-3)


def test_names_token_ids_and_a_negative_for_each(model):
    ids = [model.encode(prompt) for prompt in PROMPTS]
    named = cp.assign(
        model, ids, {"yes": " good", "no": " very bad"}, negative=["A", "B", "C"], guide=cp.Guide(scale=2.0)
    )
    assert set(named.chosen) <= {"yes", "no"} and named.options == ("yes", "no")
    with pytest.warns(NoEffectWarning, match="the scale is 1"):
        plain = cp.assign(model, PROMPTS, OPTIONS, negative="It rained.", guide=cp.Guide(scale=1))
    for row, want in zip(cp.assign(model, PROMPTS, OPTIONS).logprobs, plain.logprobs):
        assert row == pytest.approx(want, abs=1e-3)
    usual = cp.assign(model, PROMPTS, OPTIONS, negative="It rained.", guide=cp.Guide(scale=1.5))
    assert cp.assign(model, PROMPTS, OPTIONS, negative="It rained.").logprobs == usual.logprobs


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompts": []}, "list of prompts is empty"),
        ({"prompts": "one"}, "give a list"),
        ({"options": []}, "options is empty"),
        ({"options": " good"}, "use a list of texts"),
        ({"options": [" good", " good"]}, "twice"),
        ({"options": [""]}, "not empty"),
        ({"negative": ["a"]}, "1 entries for 3 prompts"),
        ({"negative": Suffix("x")}, "reads one negative beside the prompt"),
        ({"guide": 2.0}, "use counterpoint.Guide"),
        ({"capacity": {" good": 1}}, "there are 3 prompts and room for 2"),
    ],
)
def test_mistakes(model, change, message):
    given = {"prompts": PROMPTS, "options": [" good", " bad"], "negative": "It rained.", "guide": cp.Guide(scale=2.0)}
    if "capacity" in change:
        change = {"capacity": {" good": 1, " bad": 1}}
    given |= change
    with pytest.raises(UsageError, match=message):
        cp.assign(model, given.pop("prompts"), given.pop("options"), **given)
