"""What a request says about the form of its output: OpenAI's `response_format`, vLLM's names for structured outputs, and
calls of tools.

    response_format       {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": ...}}
    structured_outputs    {"json": ..., "regex": ..., "choice": [...], "grammar": ..., "json_object": true}, one of them
    guided_json, guided_regex, guided_choice, guided_grammar    the same by their older names
    tools, tool_choice    "required" or one function: the output is calls of tools
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint.constraints import Choices, Constraint, Grammar, Json, Regex
from counterpoint.errors import FieldError, UsageError
from counterpoint.wire.call_pieces import CallPieces

STRUCTURED = {"json": Json, "regex": Regex, "choice": Choices, "grammar": Grammar}
GUIDED = {f"guided_{name}": name for name in STRUCTURED}
FORM_FIELDS = ("response_format", "structured_outputs", *GUIDED)
#: parts of a schema that are values, whatever they look like
AS_IT_IS = frozenset({"const", "enum", "default", "examples"})
#: parts of a schema that hold schemas by names of the user's
OF_NAMES = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Calls:
    """An output that is calls of tools, and nothing else.

    Args:
        constraint: the form of the text: for one function its arguments, else a list of names with their arguments.
        name: the function that is called; None is one or more of them all.
    """

    constraint: Constraint
    name: str | None

    def read(self, text: str) -> list[tuple[str, str]] | None:
        """Each call's name and its arguments as JSON text; None where the text was cut short."""
        try:
            json.loads(text)
        except ValueError:
            return None
        calls: list[tuple[str, str]] = []
        for piece in self.pieces().read(text):
            calls += [] if piece.name is None else [(piece.name, "")]
            name, arguments = calls[-1]
            calls[-1] = name, arguments + piece.arguments
        return calls

    def pieces(self) -> CallPieces:
        """What reads an output while it is written."""
        return CallPieces(self.name)


def read_form(fields: Mapping[str, Any]) -> tuple[str, Constraint] | None:
    """The constraint that a request's fields ask for, after the name of the field; None where they ask for none.

    Raises:
        FieldError: a form that is not known, or several.
        UsageError: one that can't be read.
    """
    forms: dict[str, Constraint] = {}
    for name in FORM_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        try:
            if name == "response_format":
                form = _by_format(value)
            else:
                form = _structured(value if name == "structured_outputs" else {GUIDED[name]: value}, name)
        except UsageError as error:
            error.param = error.param or name
            raise
        if form is not None:
            forms[name] = form
    if len(forms) > 1:
        raise FieldError(f"{' and '.join(forms)} are both given; keep one", param=next(iter(forms)))
    return next(iter(forms.items()), None)


def read_calls(tools: Any, choice: Any, *, parallel: bool = True) -> Calls | None:
    """The calls that a request demands; None where it leaves the choice to the model.

    Args:
        tools: the functions, in OpenAI's shape.
        choice: of OpenAI's `tool_choice`.
        parallel: whether several may be called at once.

    Raises:
        FieldError: a tool is no function, or the choice names none of them.
    """
    functions = [_function(tool, number) for number, tool in enumerate(tools or ())]
    if choice in (None, "none", "auto"):
        return None
    if choice == "required":
        if not functions:
            raise FieldError("tool_choice demands a call and there are no tools; give tools", param="tool_choice")
        at = "#/items" if len(functions) == 1 else "#/items/anyOf/{}"
        each = [_as_call(function, at.format(number)) for number, function in enumerate(functions)]
        most = {} if parallel else {"maxItems": 1}
        items = each[0] if len(each) == 1 else {"anyOf": each}
        return Calls(Json({"type": "array", "minItems": 1, "items": items, **most}), None)
    named = choice.get("function", choice) if isinstance(choice, Mapping) else {}
    name = named.get("name") if isinstance(named, Mapping) else None
    if not isinstance(choice, Mapping) or choice.get("type", "function") != "function" or not isinstance(name, str):
        raise FieldError(
            f'tool_choice is {choice!r:.80}; use "none", "auto", "required" or a function of the tools',
            param="tool_choice",
        )
    for function in functions:
        if function["name"] == name:
            return Calls(Json(_parameters(function)), name)
    known = ", ".join(function["name"] for function in functions) or "none"
    raise FieldError(
        f"tool_choice names {name!r:.80}, which is none of the tools; they are {known}", param="tool_choice"
    )


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the functions that a request offers."""
    return [_function(tool, number)["name"] for number, tool in enumerate(tools)]


def _by_format(value: Any) -> Constraint | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Json(value.get("schema"))
    if kind == "json_schema":
        inner = value.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else value.get("schema")
        if schema is None:
            raise FieldError(
                'response_format has no schema; give {"type": "json_schema", "json_schema": {"schema": SCHEMA}}',
                param="response_format.json_schema",
            )
        return Json(schema)
    raise FieldError(
        f"response_format is {value!r:.80}; use the type text, json_object or json_schema", param="response_format"
    )


def _structured(value: Any, param: str) -> Constraint | None:
    if not isinstance(value, Mapping):
        raise FieldError(f"{param} is {value!r:.80}; use an object with one of {', '.join(STRUCTURED)}", param=param)
    given = {name: one for name, one in value.items() if one not in (None, False, [], {})}
    unknown = [name for name in given if name not in (*STRUCTURED, "json_object")]
    if unknown or len(given) > 1:
        wrong = f"has {', '.join(map(repr, unknown))}" if unknown else f"has {' and '.join(given)}"
        raise FieldError(f"{param} {wrong}; use one of {', '.join(STRUCTURED)}, json_object", param=param)
    if not given:
        return None
    ((name, one),) = given.items()
    if name == "json_object":
        return Json()
    return STRUCTURED[name](tuple(one) if isinstance(one, list) and name == "choice" else one)


def _function(tool: Any, number: int) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name or tool.get("type", "function") != "function":
        raise FieldError(
            f'tools[{number}] is {tool!r:.80}; use {{"type": "function", "function": {{"name": NAME, "parameters": SCHEMA}}}}',
            param=f"tools[{number}]",
        )
    return function


def _parameters(function: Mapping[str, Any]) -> Any:
    return function.get("parameters") or NO_ARGUMENTS


def _as_call(function: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The schema of a call that stands at this place of a schema."""
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "parameters": _moved(_parameters(function), f"{place}/properties/parameters"),
        },
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """A schema as a part of another: what it says of its own root is said of its new place."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, Mapping) or isinstance(schema.get("$id"), str):
        return schema
    moved = {name: one if name in AS_IT_IS else _moved(one, place) for name, one in schema.items()}
    for name in OF_NAMES & schema.keys():
        if isinstance(schema[name], Mapping):
            moved[name] = {key: _moved(one, place) for key, one in schema[name].items()}
    for name in ("$ref", "$dynamicRef"):
        given = schema.get(name)
        if isinstance(given, str) and (given == "#" or given.startswith("#/")):
            moved[name] = place + given[1:]
    return moved
