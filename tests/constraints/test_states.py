"""A constraint's values, its compiled form and the state of a sample."""

import json
import random
import re
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from constrained_models import VOCAB, fresh, tiny

import counterpoint as cp
from counterpoint.constraints import Choices, Grammar, Json, Plan, Regex
from counterpoint.constraints.masks import begin, unpacked
from counterpoint.errors import ConstraintError, UnsupportedError


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def allowed(state):
    return np.unpackbits(state.allowed(), bitorder="little")[:VOCAB].nonzero()[0].tolist()


def ids(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def walk(model, state, text):
    for token_id in ids(model, text):
        assert token_id in allowed(state), (text, model.tokenizer.decode([token_id]))
        state.accept(token_id)
    return state


def wander(model, constraint, seed, *, most=300, prefer=lambda text: False):
    """A random text that keeps a constraint, and its state."""
    source, state, out = random.Random(seed), constraint.compile(model).start(), []
    while not state.is_over and len(out) < most:
        left = allowed(state)
        liked = [i for i in left if prefer(model.decode([i]))]
        out.append(source.choice(liked if liked and source.random() < 0.8 else left))
        state.accept(out[-1])
    return out, state


KINDS = [
    Json({"type": "array", "items": {"enum": ["a b", 1, None]}, "minItems": 1, "maxItems": 4}),
    Regex(r"(\d{2}-)+\w"),
    Choices(["one", "one two", "óne 🙂"]),
    Grammar('start: "(" start ")" | /x{1,3}/'),
    Json({"const": 5}, after="::"),
]


@pytest.mark.parametrize("constraint", KINDS, ids=str)
def test_a_state_agrees_with_matchers_made_anew(model, constraint):
    for seed in range(3):
        out, _ = wander(model, constraint, seed, most=25)
        state = constraint.compile(model).start()
        for at, token_id in enumerate(out):
            bits, complete = fresh(constraint, model, out[:at])
            assert allowed(state) == bits.nonzero().flatten().tolist() and state.complete == complete
            forced = state.forced()
            assert not forced or allowed(state) == [forced[0]]
            state.accept(token_id)


@pytest.mark.parametrize("constraint", KINDS, ids=str)
def test_forced_runs_are_what_single_masks_leave(model, constraint):
    for seed in range(3):
        out, _ = wander(model, constraint, seed, most=25)
        state = constraint.compile(model).start()
        for token_id in out:
            run, one_by_one = state.forced(), state.fork()
            unseen = state.fork()
            for forced in run:
                assert allowed(one_by_one) == [forced]
                one_by_one.accept(forced)
                unseen.accept(forced)  # whether anybody has asked for its mask or not
            state.accept(token_id)


def test_forks_go_their_own_ways(model):
    state = walk(model, Regex("a(b+|c+)").compile(model).start(), "a")
    other = state.fork()
    walk(model, other, "bb")
    walk(model, state, "c")
    assert state.complete and other.complete
    assert not set(ids(model, "b")) & set(allowed(state))
    with pytest.raises(ConstraintError, match="does not allow"):
        other.accept(ids(model, "c")[0])


def test_ends(model):
    state = walk(model, Choices(["yes", "yes sir"]).compile(model).start(), "yes")
    assert state.complete and 1 in allowed(state) and state.forced() == []
    walk(model, state, " sir")
    assert state.complete and allowed(state) == [1] and state.forced() == [1] and not state.is_over
    state.accept(1)
    assert state.complete and state.is_over and state.forced() == []
    with pytest.raises(ConstraintError, match="has ended"):
        state.allowed()
    assert not Choices(["yes", "yes sir"]).compile(model).start().complete


def test_several_end_tokens_are_all_allowed():
    model = SimpleNamespace(tokenizer=tiny("llama").tokenizer, vocab_size=VOCAB, eos_ids={1, 2}, name="two ends")
    state = walk(tiny("llama"), Choices(["no"]).compile(model).start(), "no")
    assert allowed(state) == [1, 2] and state.forced() == []
    state.accept(2)
    assert state.is_over and state.complete


def test_ids_beyond_the_tokenizer_are_never_allowed(model):
    state = Regex("(.|\n)+").compile(model).start()
    assert max(allowed(state)) < 4096
    mask = unpacked([state], VOCAB + 50, torch.zeros(1))[0]
    assert len(mask) == VOCAB + 50 and not mask[4096:].any()


def test_masks_of_many_together_and_in_the_background(model):
    states = [wander(model, constraint, 1, most=2)[1] for constraint in KINDS]
    want = torch.stack([torch.isin(torch.arange(VOCAB), torch.tensor(allowed(s.fork()))) for s in states])
    for state in states:
        state._bits = None
    begin(states)
    begin(states)
    assert torch.equal(unpacked(states, VOCAB, torch.zeros(1)), want)
    begin(states)  # known already
    states[0].fork().accept(allowed(states[0])[0])
    assert torch.equal(unpacked(states, VOCAB, torch.zeros(1)), want)


def spaces(text):
    """Runs of white space outside of JSON strings."""
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', text)
    return [len(run) for run in re.findall(r"[ \t\r\n]+", bare)]


@pytest.mark.parametrize("most", [0, 1, 3, 8])
def test_white_space_is_bounded(model, most):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }  # fmt: skip
    longest = 0
    for seed in range(6):
        out, state = wander(model, Json(schema, whitespace=most), seed, prefer=lambda text: text.isspace())
        text = model.decode(out)
        assert state.complete
        json.loads(text)
        longest = max([longest, *spaces(text)])
    assert longest == most
    out, _ = wander(model, Json({"type": "string"}), 0, prefer=lambda text: text.isspace(), most=80)
    assert re.search(r" {9,}|\t", model.decode(out)) or len(out) < 40  # in a string it is text


def test_tokens_with_wide_runs_inside():
    """A token may hold more white space than is allowed, between other characters or after a string's end."""
    from counterpoint.constraints.vocabulary import Spaces, Vocabulary

    vocabulary = Vocabulary(tiny("llama").tokenizer, VOCAB, (1,), "small")
    vocabulary._texts = [b"{" + b" " * 9, b'"' + b" " * 9 + b"b", b" " * 5, b" x", b"\\" + b" " * 9, b'\\"' + b" " * 9]

    def banned(*state):
        bits = np.unpackbits(vocabulary.too_many_spaces(Spaces(8, *state)), bitorder="little")
        return bits.nonzero()[0].tolist()

    assert banned(0, False, False) == [0, 4]
    assert banned(4, False, False) == [0, 2, 4]
    assert banned(8, False, False) == [0, 2, 3, 4]
    assert banned(0, True, False) == [1]
    assert banned(0, True, True) == [5]


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Json("{"), "no JSON"),
        (lambda: Json([1]), "is an object"),
        (lambda: Json({"a": float("nan")}), "no JSON"),
        (lambda: Json(whitespace=-1), "whitespace is -1"),
        (lambda: Json(after=""), "after is ''"),
        (lambda: Regex(""), "pattern is ''"),
        (lambda: Regex(3), "pattern is 3"),
        (lambda: Grammar("\ud800"), "not valid Unicode"),
        (lambda: Choices([]), "empty list"),
        (lambda: Choices("yes"), "list of texts"),
        (lambda: Choices(["a", "a"]), "'a' twice"),
        (lambda: Choices(["a", ""]), "choice is ''"),
        (lambda: Regex("a" * 600_000), "600000 bytes"),
        (lambda: Regex("a\\"), "backslash that escapes nothing"),
        (lambda: Grammar("root ::= " + "[a-z] " * 3000), "is GBNF of 18009 characters; use 16384 at most"),
    ],
)
def test_values_are_checked_when_they_are_made(make, said):
    with pytest.raises(ConstraintError, match=said):
        make()


@pytest.mark.parametrize(
    "constraint, said",
    [
        (Json({"not": {"type": "string"}}), '"not"'),
        (Json({"type": "object", "unevaluatedProperties": False}), "unevaluatedProperties"),
        (Json({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Json({"type": "strin"}), "strin"),
        (Json({"$ref": "#"}), "no text keeps"),
        (Json({"$ref": "https://example.com/schema"}), "example.com"),
        (Regex("(?=a)b"), "look-around"),
        (Regex("["), "unclosed"),
        (Grammar("start: foo"), "foo"),
        (Json({"type": "string", "pattern": "^a\\\\\\"}), "backslash that escapes nothing"),
        (Json({"patternProperties": {"a\\": {}}}), "backslash that escapes nothing"),
        (Json({"type": "array", "minItems": 2**31}), "minItems is 2147483648; use 20000 at most"),
        (Json({"properties": {"a": {"items": {}, "maxItems": 1e30}}}), "maxItems is 1e+30; use 20000 at most"),
    ],
)
def test_what_can_not_be_kept_is_refused_by_name_in_one_line(model, constraint, said):
    with pytest.raises(ConstraintError) as caught:
        constraint.compile(model)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def spelled(special):
    escaped = "".join(f"\\x{{{ord(char):x}}}" for char in special)
    return [
        Choices(["yes", f"a{special}b"]), Json({"enum": ["a", [special]]}), Json({"properties": {special: {}}}),
        Regex(re.escape(special) + "+"), Regex(escaped), Grammar(f"start: {json.dumps(special)} /a/"),
        Plan(special + "{a}", slots={"a": ["b", "c"]}),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(7))
def test_the_text_of_a_special_token_is_refused_before_a_token_is_written(model, number):
    special = model.tokenizer.decode(model.tokenizer.all_special_ids[:1])
    with pytest.raises(ConstraintError, match="is a token of its own for this model and no text; leave it out"):
        spelled(special)[number].compile(model)
    Json({"title": special, "description": special, "type": "integer"}).compile(model)


def test_grammars_of_llama_cpp_are_read(model):
    compiled = Grammar('# a list\nroot ::= "[" item ("," item)* "]"\nitem  ::= [a-c]+').compile(model)
    for text, is_whole in (("[ab,c]", True), ("[a,", False)):
        assert walk(model, compiled.start(), text).complete is is_whole
    assert not set(ids(model, "d")) & set(allowed(walk(model, compiled.start(), "[")))


@pytest.mark.parametrize(
    "schema, good, bad",
    [
        ({"type": "integer", "minimum": -3, "maximum": 12}, ["-3", "12", "0"], ["-4", "13", "1.5"]),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, ["0.5"], ["0", "1", "-0.1"]),
        ({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 99}, ["35"], ["36"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"']),
        ({"type": "string", "pattern": "^a+b$"}, ['"aab"'], ['"ab "', '"b"']),
        ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"1900-02-29"', '"2024-04-31"']),
        ({"type": "string", "format": "date-time"}, ['"2024-02-01T23:59:59Z"'], ['"2024-02-01T20:37:60Z"', '"x"']),
        ({"type": "string", "format": "date", "pattern": "^2"}, ['"2024-02-01"'], ['"1999-02-01"', '"2"']),
        ({"type": ["number", "null"]}, ["0", "-12.5", "null"], ["1e999", "3E5"]),
        ({"type": "number", "minimum": 2e15}, ["3000000000000000"], ["5"]),
        ({"const": {"format": "date"}}, ['{"format": "date"}'], ['{"format": "x"}']),
        ({"properties": {"format": {"const": "date"}}, "required": ["format"], "additionalProperties": False}, ['{"format": "date"}'], ['{"format": "x"}']),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, ["[true]"], ["[]", "[1]"]),
        ({"enum": [1, "a", None]}, ["1", '"a"', "null"], ["2", '"b"']),
        ({"const": {"a": [1]}}, ['{"a": [1]}'], ['{"a": [2]}']),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, ["null", "7"], ['"7"']),
        ({"$defs": {"d": {"type": "boolean"}}, "$ref": "#/$defs/d"}, ["true"], ["1"]),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, ['{"a": 1}'], ["{}", '{"a": 1, "b": 2}']),
        ({"type": ["string", "null"]}, ['"x"', "null"], ["0"]),
        ({"allOf": [{"type": "integer"}, {"minimum": 5}, {"maximum": 6}]}, ["5"], ["7"]),
    ],
)  # fmt: skip
def test_keywords_that_are_kept(model, schema, good, bad):
    compiled = Json(schema).compile(model)

    def is_written(text):
        state = compiled.start()
        for token_id in ids(model, text):
            if not state.num_allowed([token_id]):
                return False
            state.accept(token_id)
        return state.complete

    assert [text for text in good if not is_written(text)] == []
    assert [text for text in bad if is_written(text)] == []


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return schema


EXPLODING = [
    lambda: Json(nested(2000)),
    lambda: Json({"allOf": [{"anyOf": [{"properties": {f"a{i}": {}}}, {"properties": {f"b{i}": {}}}]} for i in range(20)]}),
    lambda: Json({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(600)}}),
    lambda: Json({"type": "object", "properties": {f"p{i}": {} for i in range(15_000)}}),
    lambda: Json({"enum": [f"{i}" for i in range(90_000)]}),
    lambda: Regex("(" * 5000 + "a+" + ")" * 5000),
    lambda: Json({"allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949, 9941, 9931)]}),
    lambda: Json({"type": "number", "minimum": 1e-300, "maximum": 1e300}),
]  # fmt: skip


def test_what_is_made_to_explode_is_refused_and_the_next_is_served(model):
    for make in EXPLODING:
        began = time.process_time()
        with pytest.raises(ConstraintError):
            make().compile(model)
        assert time.process_time() - began < 60  # of the processor; each takes less than one on a quiet machine
    assert Choices(["ok"]).compile(model).start().forced()


def test_a_constraint_is_compiled_once(model):
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert Json(schema).compile(model) is Json(json.dumps(schema)).compile(model)
    assert Json(schema) != Json({"type": "object", "properties": {"a": {}, "b": {}}})  # the order is that of the output
    assert Json(schema).compile(model) is not Json(schema, after="x").compile(model)
    assert hash(Choices(["a"])) == hash(Choices(("a",)))


def test_a_pydantic_class_is_a_schema(model):
    pydantic = pytest.importorskip("pydantic")

    class Point(pydantic.BaseModel):
        x: int
        label: str | None = None

    out, state = wander(model, Json(Point), 4)
    if state.complete:
        Point.model_validate_json(model.decode(out))
    assert json.loads(Json(Point).schema)["required"] == ["x"]


def test_after_a_token_that_no_text_spells(model):
    state = Regex("a+", after="<pad>").compile(model).start()
    for token_id in [*ids(model, "so it is"), 2, *ids(model, "\n\naa")]:
        state.accept(token_id)
    assert state.complete
    assert not Regex("a+", after="<pad>").compile(model).start().num_allowed([1])


def test_models_that_can_not():
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        Regex("a").compile(cp.Model(tiny("gpt2").hf))
    tokenizer = SimpleNamespace(eos_token_id=None)
    with pytest.raises(UnsupportedError, match="no token that ends"):
        Regex("a").compile(SimpleNamespace(tokenizer=tokenizer, vocab_size=9, eos_ids=frozenset(), name="x"))


def test_without_the_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    model = SimpleNamespace(tokenizer=tiny("llama").tokenizer, vocab_size=VOCAB, eos_ids={0}, name="x")
    with pytest.raises(UnsupportedError, match=r"pip install '\.\[constraints\]'"):
        Regex("a").compile(model)
