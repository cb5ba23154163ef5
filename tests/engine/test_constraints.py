"""Under a constraint the engine's tokens are those of the definition, with every quicker path on and off."""

import dataclasses
import json

import jsonschema_rs
import pytest
from constrained_models import by_definition, tiny

import counterpoint as cp
from counterpoint.constraints import Choices, Grammar, Json, Regex
from counterpoint.contexts import OtherModel
from counterpoint.engine import Engine, prepare
from counterpoint.errors import ConstraintError, SamplingError
from counterpoint.sampling import Sampling

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CONSTRAINTS = {
    "json": Json(PERSON),
    "json without white space": Json(PERSON, whitespace=0),
    "json after a text": Json({"type": "integer"}, after="so:"),
    "regex": Regex(r"(ab|cd){2,4} \d{3}"),
    "choices": Choices(["yes", "yes, of course", "no way"]),
    "grammar": Grammar('start: "(" start ")" | WORD\nWORD: /[a-z]{1,4}/'),
}
GUIDES = {
    "log": cp.Guide(scale=2.0),
    "prob": cp.Guide(scale=3.0, space="prob"),
    "plausible": cp.Guide(scale=2.0, plausibility=0.2, start=1),
    "gated": cp.Guide(scale=1.5, gate=0.8, stop=12),
}
PROMPT, NEGATIVE = [50, 60, 70, 80, 90, 100, 50, 60, 70], [400, 30, 5, 7]


def ask(model, constraint, guide, **options):
    given = {"negative": NEGATIVE, "constraint": CONSTRAINTS[constraint], "guide": GUIDES[guide], "max_tokens": 40}
    return cp.generate(model, PROMPT, **given | options)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_greedy_tokens_are_those_of_the_definition(kind, constraint):
    model = tiny(kind)
    for guide in ("log", "prob") if kind == "llama" else ("plausible",):
        want = by_definition(
            model, CONSTRAINTS[constraint], PROMPT, [NEGATIVE], GUIDES[guide].weights([cp.Branch(NEGATIVE)]),
            GUIDES[guide], max_tokens=40,
        )  # fmt: skip
        done = ask(model, constraint, guide, temperature=0)
        assert done.token_ids == want
        assert ask(model, constraint, guide, temperature=0, draft_tokens=4).token_ids == want


@pytest.mark.parametrize("guide", GUIDES)
def test_samples_are_those_of_the_definition_on_every_path(guide):
    model, draft = tiny("qwen3"), tiny("llama")
    sampling = {"temperature": 0.9, "top_p": 0.95}
    names = ["json", "json without white space", "choices", "json after a text"]
    want = [
        by_definition(
            model, CONSTRAINTS[name], PROMPT, [NEGATIVE], GUIDES[guide].weights([cp.Branch(NEGATIVE)]), GUIDES[guide],
            Sampling(**sampling), seed=7 + k, max_tokens=40,
        )
        for name in names for k in range(2)
    ]  # fmt: skip
    for paths in ({}, {"draft_tokens": 4}, {"draft_tokens": 4, "draft_model": draft}):
        got = [d.token_ids for name in names for d in ask(model, name, guide, seed=7, n=2, **sampling, **paths)]
        assert got == want, paths
    # all at once, and one as a stream
    engine = Engine(model)
    requests = [
        prepare(
            model, PROMPT, negative=NEGATIVE, guide=GUIDES[guide], constraint=CONSTRAINTS[name], seed=7, n=2, max_tokens=40,
            **sampling,
        )
        for name in names
    ]  # fmt: skip
    assert [done.token_ids for samples in engine.complete(requests) for done in samples] == want
    assert engine.num_rows == 0
    pieces = list(
        cp.stream(
            model, PROMPT, negative=NEGATIVE, guide=GUIDES[guide], constraint=CONSTRAINTS["json"], seed=7,
            max_tokens=40, **sampling,
        )
    )  # fmt: skip
    assert tuple(piece.token_id for piece in pieces) == want[0]
    assert "".join(pieces) == pieces[-1].completion.text


@pytest.mark.parametrize("draft_ahead", [False, True])
@pytest.mark.parametrize("guide", ["prob", "gated", "plausible"])
def test_branches_of_another_model_are_skipped_and_guessed_for(guide, draft_ahead):
    model, other = tiny("llama"), tiny("gpt2")
    options = {
        "branches": [cp.Branch(OtherModel(other))],
        "negative": None,
        "temperature": 0 if guide == "prob" else 1.0,
        "seed": 3,
    }
    slow = [{}, {"skips": False}]
    results = []
    for how in slow:
        engine = Engine(model, **how)
        request = prepare(
            model, PROMPT, constraint=CONSTRAINTS["json"], guide=GUIDES[guide], max_tokens=40,
            branches=options["branches"], temperature=options["temperature"], seed=3,
        )  # fmt: skip
        results.append(engine.complete([request])[0][0].token_ids)
    if draft_ahead:
        results.append(ask(model, "json", guide, draft_tokens=3, draft_ahead=True, **options).token_ids)
    assert len(set(results)) == 1


def test_what_looks_at_every_step_changes_no_token():
    model, seen = tiny("llama"), []

    def doing_nothing(prompt_ids, output_ids, scores):
        return scores

    want = ask(model, "json", "prob", seed=5).token_ids
    assert ask(model, "json", "prob", seed=5, observe=lambda i, o: seen.append(o)).token_ids == want
    assert [o.token_id for o in seen] == list(want)
    assert all(float(o.guided.exp().sum()) == pytest.approx(1, abs=1e-4) for o in seen)
    assert ask(model, "json", "prob", seed=5, processors=[doing_nothing]).token_ids == want
    reported = ask(model, "json", "prob", seed=5, logprobs=3)
    one_by_one = ask(model, "json", "prob", seed=5, logprobs=3, processors=[doing_nothing])
    assert reported.token_ids == want
    for a, b in zip(reported.logprobs, one_by_one.logprobs):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-5) and [i for i, _ in a.top] == [i for i, _ in b.top]


def test_forced_tokens_take_no_steps_of_their_own():
    """An object with 8 fixed keys: at most 0.7 of the steps, the same tokens."""
    schema = {
        "type": "object",
        "properties": {f"number of {word}": {"type": "integer", "minimum": 0, "maximum": 99}
                       for word in ("apples", "pears", "plums", "cherries", "grapes", "figs", "dates", "limes")},
        "additionalProperties": False,
    }  # fmt: skip
    schema["required"] = list(schema["properties"])
    model, constraint = tiny("llama"), Json(schema)

    def run(**options):
        engine, num_steps, done = Engine(model), 0, []
        engine.add(
            prepare(
                model,
                PROMPT,
                negative=NEGATIVE,
                guide=GUIDES["log"],
                constraint=constraint,
                seed=1,
                max_tokens=400,
                **options,
            )
        )
        while not engine.is_idle:
            done += [p.completion for p in engine.step() if p.completion]
            num_steps += 1
        return num_steps, done[0]

    quick, forced = run()
    slow, plain = run(processors=[lambda prompt, output, scores: scores])
    assert forced.token_ids == plain.token_ids and forced.complete
    assert quick <= 0.7 * slow
    assert list(json.loads(forced.text)) == schema["required"]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mamba"])
def test_complete_answers_are_valid_and_others_say_so(kind):
    schema = {
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": ["integer", "null"]}},
                            "required": ["x"], "additionalProperties": False}},
        "type": "object",
        "properties": {
            "at": {"$ref": "#/$defs/point"},
            "kind": {"anyOf": [{"const": "a"}, {"type": "integer", "minimum": 10, "maximum": 12}]},
            "when": {"type": "string", "format": "date"},
            "list": {"type": "array", "items": {"enum": [1, "two", None]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["at", "kind", "when", "list"],
        "additionalProperties": False,
    }  # fmt: skip
    valid = jsonschema_rs.validator_for(schema)
    done = cp.generate(
        tiny(kind),
        PROMPT,
        negative=NEGATIVE,
        guide=GUIDES["prob"],
        constraint=Json(schema),
        n=6,
        seed=0,
        max_tokens=160,
    )
    for one in done:
        assert one.complete == (one.finish_reason == "stop")
        if one.complete:
            assert valid.is_valid(json.loads(one.text)), one.text
            assert 0 < one.constraint_mass <= 1
    assert any(one.complete for one in done)
    short = cp.generate(tiny(kind), PROMPT, constraint=Json(schema), max_tokens=5, seed=0)
    assert short.complete is False and short.finish_reason == "length"
    assert cp.generate(tiny(kind), PROMPT, max_tokens=2, seed=0).complete is None


def test_a_stop_text_that_cuts_the_form_leaves_it_incomplete():
    done = cp.generate(tiny("llama"), PROMPT, constraint=Choices(["one, two"]), stop=", ", max_tokens=20, seed=0)
    assert done.text == "one" and done.complete is False and done.finish_reason == "stop"


def test_what_can_not_be():
    model = tiny("llama")
    with pytest.raises(ConstraintError, match="not"):
        cp.generate(model, PROMPT, constraint=Json({"not": {}}), max_tokens=3)
    with pytest.raises(SamplingError, match="constraint is"):
        cp.generate(model, PROMPT, constraint={"type": "object"}, max_tokens=3)
    with pytest.raises(SamplingError, match="min_tokens is given beside a constraint"):
        dataclasses.replace(prepare(model, PROMPT, constraint=Json(), max_tokens=30), min_tokens=9)
    compiled = Json().compile(cp.load("bundled"))
    with pytest.raises(SamplingError, match="another vocabulary"):
        cp.generate(model, PROMPT, constraint=compiled, max_tokens=3)


def test_a_failing_constraint_ends_its_own_request(monkeypatch):
    model = tiny("llama")
    engine = Engine(model)
    bad = prepare(model, PROMPT, constraint=CONSTRAINTS["regex"], max_tokens=30, seed=0)
    good = prepare(model, PROMPT, constraint=CONSTRAINTS["json"], max_tokens=30, seed=0)
    first, second = engine.add(bad), engine.add(good)
    want = cp.generate(model, PROMPT, constraint=CONSTRAINTS["json"], max_tokens=30, seed=0).token_ids
    state = next(s for s in engine._waiting if s.request is bad).constraint
    engine.step()

    def breaking(*_):
        raise ConstraintError("it broke")

    accept = type(state).accept
    monkeypatch.setattr(type(state), "accept", lambda self, i: breaking() if self is state else accept(self, i))
    failed, done = {}, {}
    while not engine.is_idle:
        for progress in engine.step():
            if progress.error is not None:
                failed[progress.request_id] = str(progress.error)
            elif progress.completion is not None:
                done[progress.request_id] = progress.completion.token_ids
    assert failed == {first: "it broke"} and done[second] == want
    assert engine.num_rows == 0
