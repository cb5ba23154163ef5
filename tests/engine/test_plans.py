"""Under rules over several choices the engine's tokens are those of the definition, on every path."""

import itertools

import pytest
from constrained_models import by_definition, tiny

import counterpoint as cp
from counterpoint.constraints import Json, Plan
from counterpoint.constraints.solving import Solver
from counterpoint.engine import Engine, prepare
from counterpoint.errors import ConstraintError
from counterpoint.sampling import Sampling

pytest.importorskip("ortools")

PROMPT, NEGATIVE = [50, 60, 70, 80, 90, 100, 50, 60, 70], [400, 30, 5, 7]
DISHES = ["fish", "fish pie", "bean stew", "salad"]


def menu(after=None):
    days = ["mon", "tue", "wed"]
    plan = Plan("{mon}, then {tue}. {wed}", dict.fromkeys(days, DISHES), after=after)
    for dish in DISHES:
        plan.model.add_at_most_one(plan[day][dish] for day in days)
    plan.model.add(sum(plan[day]["fish"] + plan[day]["fish pie"] for day in days) == 2)
    return plan


def shares(fields):
    fields.model.add(fields.value("a") + fields.value("b") == 12)
    fields.model.add(fields.value("a") < fields.value("b"))


SHARES = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "a": {"type": "integer", "minimum": 0, "maximum": 12},
        "b": {"type": "integer", "minimum": 0, "maximum": 12},
        "tags": {"type": "array", "items": {"enum": ["x", "y", 1]}, "uniqueItems": True, "minItems": 1},
    },
    "required": ["name", "a", "b", "tags"],
    "additionalProperties": False,
}
CONSTRAINTS = {
    "plan": menu(),
    "plan after a text": menu(after="so:"),
    "json": Json(SHARES, rules=shares, whitespace=1),
}
GUIDES = {
    "log": cp.Guide(scale=2.0),
    "prob": cp.Guide(scale=3.0, space="prob"),
}


def weights(guide):
    return GUIDES[guide].weights([cp.Branch(NEGATIVE)])


@pytest.mark.parametrize("kind, name", [("llama", "plan after a text"), ("mamba", "plan"), ("llama", "json")])
def test_greedy_tokens_are_those_of_the_definition(kind, name):
    model = tiny(kind)
    for guide in ("log",) if kind == "llama" else ("prob",):
        want = by_definition(model, CONSTRAINTS[name], PROMPT, [NEGATIVE], weights(guide), GUIDES[guide], max_tokens=30)
        given = {"negative": NEGATIVE, "constraint": CONSTRAINTS[name], "guide": GUIDES[guide], "max_tokens": 30}
        for paths in ({}, {"draft_tokens": 4}):
            assert cp.generate(model, PROMPT, temperature=0, **given, **paths).token_ids == want


@pytest.mark.parametrize("guide", GUIDES)
def test_samples_are_those_of_the_definition_on_every_path(guide):
    model, draft = tiny("qwen3"), tiny("llama")
    sampling, names = {"temperature": 0.9, "top_p": 0.95}, ["plan", "json"]
    want = [
        by_definition(
            model, CONSTRAINTS[name], PROMPT, [NEGATIVE], weights(guide), GUIDES[guide], Sampling(**sampling), seed=7 + k,
            max_tokens=40,
        )
        for name, k in itertools.product(names, range(2))
    ]  # fmt: skip
    given = {"negative": NEGATIVE, "guide": GUIDES[guide], "seed": 7, "max_tokens": 40, **sampling}
    for paths in ({}, {"draft_tokens": 4}, {"draft_tokens": 4, "draft_model": draft}):
        got = [
            done.token_ids
            for name in names
            for done in cp.generate(model, PROMPT, constraint=CONSTRAINTS[name], n=2, **given, **paths)
        ]
        assert got == want, paths
    engine = Engine(model)
    requests = [prepare(model, PROMPT, constraint=CONSTRAINTS[name], n=2, **given) for name in names]
    assert [done.token_ids for samples in engine.complete(requests) for done in samples] == want
    assert engine.num_rows == 0
    pieces = list(cp.stream(model, PROMPT, constraint=CONSTRAINTS["plan"], **given))
    assert tuple(piece.token_id for piece in pieces) == want[0]
    assert "".join(pieces) == pieces[-1].completion.text


def test_a_question_that_fails_ends_its_own_request(monkeypatch):
    model, plan = tiny("llama"), menu()
    plan.compile(model)
    given = {"negative": NEGATIVE, "guide": GUIDES["log"], "max_tokens": 40, "seed": 1}
    want = cp.generate(model, PROMPT, **given).token_ids
    engine = Engine(model)
    engine.add(prepare(model, PROMPT, constraint=plan, **given))
    other = engine.add(prepare(model, PROMPT, **given))

    def too_long(self, model):
        raise ConstraintError("OR-tools could not tell")

    monkeypatch.setattr(Solver, "_solve", too_long)
    ended = []
    while not engine.is_idle:
        ended += [
            progress for progress in engine.step() if progress.error is not None or progress.completion is not None
        ]
    errors = [progress for progress in ended if progress.error is not None]
    assert len(errors) == 1 and "could not tell" in str(errors[0].error)
    assert [p.completion.token_ids for p in ended if p.request_id == other] == [want]
    assert engine.num_rows == 0
