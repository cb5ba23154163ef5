"""Schemas, expressions and grammars that grow when they are compiled: refused, or kept, in bounded time, and the next request is served."""

import pytest
from patience import PATIENCE_S
from server.conftest import make_model, serving
from server.test_forms import TOOLS_TEMPLATE

from counterpoint.server.limits import Limits

MESSAGES = [{"role": "user", "content": "Hi"}]
TEXT = {"type": "string"}


def nested(kind, depth, width):
    schema = TEXT
    for _ in range(depth):
        schema = {kind: [schema] * width}
    return schema


def objects(width, depth):
    schema = TEXT
    for _ in range(depth):
        schema = {
            "type": "object",
            "properties": {f"p{k}": schema for k in range(width)},
            "additionalProperties": False,
        }
    return schema


def doubling(count):
    """Each definition is the one before, twice."""
    defs = {"d0": TEXT}
    for k in range(1, count):
        defs[f"d{k}"] = {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{k - 1}"}] * 2, "minItems": 2}
    return {"$defs": defs, "$ref": f"#/$defs/d{count - 1}"}


def pattern(text):
    return {"type": "string", "pattern": text}


SCHEMAS = [
    *({"type": "array", "items": TEXT, "minItems": n} for n in (10**3, 10**5, 10**7, 2**31, 10**30)),
    *({"type": "array", "items": {"type": "array", "items": TEXT, "minItems": n, "maxItems": n}, "minItems": n} for n in (50, 500, 5000)),
    *({"type": "string", "minLength": n, "maxLength": 2 * n} for n in (10**3, 10**5, 10**8, 2**40)),
    *(pattern(f"^(a{{1,{n}}}){{1,{n}}}$") for n in (10, 100, 1000, 10**5)),
    *(pattern(f"^(((a|b){{1,{n}}}c){{1,{n}}}d){{1,{n}}}$") for n in (5, 20, 100)),
    *(pattern(f"^.*a.{{{n}}}$") for n in (10, 20, 40, 200)),
    *(pattern("^" + "(a?)" * n + "a" * n + "$") for n in (20, 100, 1000)),
    pattern("(" * 5000 + ")" * 5000), pattern("(a+)+$"), pattern("^(a|aa)+$"), pattern("(?=a)b"), pattern("(?<=a)b"), pattern("a\\1"),
    pattern("["), pattern("a{99999999999}"), pattern("\\p{L}{1000}"), pattern("[\\s\\S]{5000,9000}"),
    *(nested(kind, depth, width) for kind in ("anyOf", "oneOf", "allOf") for depth, width in ((4, 6), (8, 4), (300, 1))),
    *(objects(width, depth) for width, depth in ((3, 5), (5, 5), (60, 2), (2, 10), (1, 200))),
    *(doubling(n) for n in (5, 20, 60, 200)),
    *({"enum": [f"{k}" * 20 for k in range(n)]} for n in (100, 5000)),
    {"enum": ["x" * 50_000]}, {"const": {"a": ["b"] * 5000}}, {"enum": []}, {"enum": [None] * 1000},
    {"$ref": "#"}, {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1}}, "$ref": "#/$defs/a"},
    {"$ref": "http://127.0.0.1:1/schema"}, {"$ref": "file:///etc/passwd"},
    {"type": "object", "properties": {f"p{k}": TEXT for k in range(3000)}},
    {"type": "object", "properties": {f"p{k}": TEXT for k in range(300)}, "required": [f"p{k}" for k in range(300)]},
    {"type": "object", "patternProperties": {f"^{'a' * k}.*$": TEXT for k in range(1, 60)}},
    {"type": "object", "propertyNames": pattern("^(a{1,100}){1,100}$"), "minProperties": 10**6},
    {"type": "integer", "minimum": -(10**300), "maximum": 10**300}, {"type": "number", "multipleOf": 1e-300},
    {"type": "integer", "multipleOf": 10**18, "minimum": 1}, {"type": "number", "minimum": 1e308, "exclusiveMaximum": 1e308},
    {"not": {}}, {"not": TEXT}, {"if": TEXT, "then": False, "else": True}, {"allOf": [TEXT, {"type": "integer"}]},
    {"type": "array", "uniqueItems": True, "items": {"enum": list(range(200))}, "minItems": 200},
    {"type": "array", "contains": TEXT, "minContains": 10**6}, {"dependentSchemas": {f"p{k}": objects(3, 3) for k in range(20)}},
    {"type": "string", "format": "x" * 10_000}, {"type": ["string"] * 2000}, {"type": "nothing"}, {"minimum": "1"}, {"required": "a"},
]  # fmt: skip
EXPRESSIONS = [f"(a{{1,{n}}}){{1,{n}}}" for n in (10, 100, 1000)] + [
    "(a+)+b",
    "(.*)*",
    ".{100000}",
    "(x|y){0,5000}z",
    "a{2147483648}",
    "(?R)",
]
GRAMMARS = [
    "start: a\n" + "\n".join(f"a{k or ''}: a{k + 1} a{k + 1}" for k in range(60)) + '\na60: "x"',
    "start: start start", "start: start | ", 'start: "a"{1,1000000}', "start: (((\"a\"?){100}){100}){100}", "start: x",
    "start: " + '"a" | ' * 20_000 + '"b"', "start: /(a{1,1000}){1,1000}/", 'start: a\na: b\nb: a | "x"', "\x00", "start: <[999999999]>",
]  # fmt: skip
CASES = (
    [{"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}} for schema in SCHEMAS]
    + [{"guided_regex": expression} for expression in EXPRESSIONS]
    + [{"guided_grammar": grammar} for grammar in GRAMMARS]
    + [{"guided_choice": ["x" * 5000] * 100}, {"guided_choice": [f"{k}" for k in range(20_000)]}]
    + [{"tools": [{"type": "function", "function": {"name": f"f{k}", "parameters": objects(3, 3)}} for k in range(200)], "tool_choice": "required"}]
)  # fmt: skip


@pytest.fixture(scope="module")
def running():
    limits = Limits(deadline_s=PATIENCE_S)  # past it the answer is 408; a quiet machine takes a second or two
    with serving(make_model(template=TOOLS_TEMPLATE, context_len=4096), limits=limits) as made:
        yield made


def test_each_is_answered_in_bounded_time_and_the_next_request_is_served(running):
    assert len(CASES) >= 100
    wrong = []
    for number, fields in enumerate(CASES):
        answer = running.post("/v1/chat/completions", messages=MESSAGES, max_tokens=8, seed=1, **fields)
        if answer.status_code not in (200, 400, 413) or (answer.status_code != 200 and len(answer.text) > 4000):
            wrong.append((number, str(fields)[:100], answer.status_code, answer.text[:200]))
        if number % 10 == 9:
            assert running.post(prompt="Hello", max_tokens=2).status_code == 200, fields
    assert not wrong
    running.wait_idle()
