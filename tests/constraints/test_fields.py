"""Rules over the fields of a JSON schema, and `uniqueItems`: against all instances by brute force."""

import itertools
import json
import random

import jsonschema_rs
import numpy as np
import pytest
from constrained_models import VOCAB, tiny

from counterpoint.constraints import ABSENT, Json
from counterpoint.constraints.vocabulary import vocabulary_of
from counterpoint.errors import ConstraintError, UsageError

pytest.importorskip("ortools")

NUMBER = {"type": "integer", "minimum": 1, "maximum": 12}


def closed(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def objects(**values):
    """Every object whose properties have one of these values each; None in them leaves it out."""
    for chosen in itertools.product(*values.values()):
        yield {name: value for name, value in zip(values, chosen) if value is not None}


def all_of_two(fields):
    fields.model.add(fields.value("a") + fields.value("b") == 13)


def one_of_three(fields):
    fields.model.add_exactly_one(fields[name][ABSENT] for name in ("a", "b", "c"))
    fields.model.add(fields.value("a") != fields.value("c"))


def nested(fields):
    fields.model.add_implication(fields["kind"]["round"], ~fields["box.size"][ABSENT])
    fields.model.add_implication(fields["box.size"][2], fields["last"][True])


SETS = [list(c) for n in range(1, 4) for c in itertools.permutations(["x", 1, True], n)]
#: schema, rules, every valid instance that keeps them
CASES = {
    "sum": (
        closed(["a", "b"], a=NUMBER, b=NUMBER), all_of_two,
        [{"a": a, "b": 13 - a} for a in range(1, 13)],
    ),
    "optional": (
        closed(a=NUMBER | {"maximum": 3}, b={"enum": ["p", "q"]}, c=NUMBER | {"maximum": 3}), one_of_three,
        [
            o for o in objects(a=[None, 1, 2, 3], b=[None, "p", "q"], c=[None, 1, 2, 3])
            if len(o) == 2 and o.get("a", 0) != o.get("c", 0)
        ],
    ),
    "unique": ({"type": "array", "items": {"enum": ["x", 1, True]}, "uniqueItems": True, "minItems": 1}, None, SETS),
    "unique in an optional one": (
        closed(["n"], s=closed(["t"], t={"type": "array", "items": {"enum": ["x", 1, True]}, "uniqueItems": True, "minItems": 1}), n={"const": None}),
        None,
        [{"n": None}, *({"s": {"t": t}, "n": None} for t in SETS)],
    ),
    "nested": (
        closed(["kind", "box", "last"], kind={"$ref": "#/$defs/kind"}, box=closed(size={"anyOf": [{"const": 2}, {"type": "null"}]}), last={"type": "boolean"})
        | {"$defs": {"kind": {"enum": ["round", "square"]}}},
        nested,
        [
            {"kind": k, "box": b, "last": x}
            for k in ("round", "square") for b in ({}, {"size": 2}, {"size": None}) for x in (True, False)
            if (k != "round" or b) and (b.get("size") != 2 or x)
        ],
    ),
    "items": (
        closed(["l"], l={"type": "array", "items": closed(["v"], v={"enum": [1, 2, 3]}), "minItems": 1, "maxItems": 2}),
        lambda fields: fields.model.add(sum(fields.value(f"l[{i}].v") for i in range(2)) == 3),
        [{"l": [{"v": 3}]}, {"l": [{"v": 1}, {"v": 2}]}, {"l": [{"v": 2}, {"v": 1}]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_that_begin_a_text_of_an_instance(name):
    schema, rules, instances = CASES[name]
    model, validator = tiny("llama"), jsonschema_rs.validator_for(schema)
    texts = {json.dumps(instance, separators=(",", ":"), sort_keys=False).encode() for instance in instances}
    assert all(validator.is_valid(json.loads(text)) for text in texts)
    spelled = vocabulary_of(model).texts
    compiled = Json(schema, rules=rules, whitespace=0).compile(model)
    found = set()
    for walk in range(12):
        source, state, out = random.Random(walk), compiled.start(), b""
        while not state.is_over:
            left = np.unpackbits(state.allowed(), bitorder="little")[:VOCAB].nonzero()[0].tolist()
            going = [text for text in texts if text.startswith(out)]
            right = {i for i, t in enumerate(spelled) if i > 3 and t and any(g.startswith(out + t) for g in going)}
            right |= {1} if out in going else set()
            assert left and set(left) <= right, (out, [spelled[i] for i in set(left) - right])
            assert left == state.forced() or set(left) == right, (out, [spelled[i] for i in right - set(left)])
            assert state.complete == (out in texts)
            token_id = source.choice(left)
            state = state.fork() if source.random() < 0.3 else state
            state.accept(token_id)
            out += b"" if token_id == 1 else spelled[token_id]
        found.add(out)
    assert found <= texts and len(found) > 1


def test_free_parts_between_fields_are_written_freely():
    """Strings with quotation marks and commas, numbers, other keys, white space: what is complete is valid and kept."""
    model = tiny("llama")
    schema = {
        "type": "object",
        "properties": {
            "a": {"enum": ["x", "y"]},
            "text": {"type": "string", "maxLength": 12},
            "free": {"type": "array", "items": {"type": ["number", "object"]}, "maxItems": 2},
            "b": {"enum": ["x", "y"]},
        },
        "required": ["text"],
    }

    def rules(fields):
        fields.model.add(fields["a"]["x"] + fields["b"]["x"] + fields["a"][ABSENT] == 1)

    compiled, num_complete = Json(schema, rules=rules, whitespace=1).compile(model), 0
    validator, spelled = jsonschema_rs.validator_for(schema), vocabulary_of(model).texts
    for walk in range(20):
        source, state, out = random.Random(walk), compiled.start(), b""
        for _ in range(300):
            left = np.unpackbits(state.allowed(), bitorder="little")[:VOCAB].nonzero()[0].tolist()
            marked = [i for i in left if i == 1 or set(spelled[i]) & set(b'"}],')]
            token_id = source.choice(marked if marked and source.random() < 0.7 else left)
            state.accept(token_id)
            if state.is_over:
                break
            out += spelled[token_id]
        if state.is_over:
            made = json.loads(out.decode("utf-8", "replace"))
            num_complete += 1
            assert validator.is_valid(made)
            assert (made.get("a") == "x") + (made.get("b") == "x") + ("a" not in made) == 1, made
    assert num_complete > 5


@pytest.mark.parametrize(
    "schema, rules, message",
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, None, "uniqueItems needs items that are enums"),
        (closed(t={"type": "array", "uniqueItems": True}), None, "uniqueItems in 't' needs"),
        ({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 3}, None, "can't be kept.*uniqueItems of the array"),
        (closed(["a", "b"], a=NUMBER, b=NUMBER), lambda f: f.model.add(f.value("a") + f.value("b") > 24).with_name("much"), "this rule can't be kept: much"),
        (closed(["a"], a=NUMBER), lambda f: f["c"], "there is no field 'c'; they are a "),
        (closed(["a"], a={"type": "string"}), lambda f: f["a"], "there is no field 'a'; they are none"),
        (closed(["a"], a=NUMBER), lambda f: f["a"][13], "'a' has no option 13"),
        (closed(["a"], a={"enum": [1.5]}), lambda f: f.value("a"), "use whole numbers"),
        (closed(["a"], a=NUMBER), "a < b", "rules is 'a < b'; use a function"),
    ],
)  # fmt: skip
def test_what_can_not_be_kept_is_refused_by_name(schema, rules, message):
    with pytest.raises(UsageError, match=message) as error:
        Json(schema, rules=rules).compile(tiny("llama"))
    assert isinstance(error.value, ConstraintError) and "\n" not in str(error.value)


def test_unique_items_that_ask_for_nothing_pass():
    model = tiny("llama")
    for schema in (
        {"type": "array", "items": {"type": "string"}, "uniqueItems": False},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 1},
        closed(uniqueItems={"type": "string"}),
    ):
        Json(schema).compile(model).start().allowed()
