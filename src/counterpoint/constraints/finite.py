"""Schemas of which finitely many values are valid."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from counterpoint.constraints.rules import MOST_OPTIONS

NOTES = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id",
     "$defs", "definitions"}
)  # fmt: skip
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
DEEPEST = 64  # references and parts


def key_of(value: Any) -> str:
    """A text that two scalars share where JSON Schema calls them equal: 1 and 1.0 are, 1 and true are not.

    Raises:
        TypeError: it is no scalar of JSON.
    """
    if not (value is None or isinstance(value, (str, int, float))):
        raise TypeError(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema that a reference and its notes stand for; itself where it is no such thing or leads elsewhere."""
    for _ in range(DEEPEST):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str) or schema.keys() - NOTES != {"$ref"}:
            return schema
        found: Any = root
        path = schema["$ref"]
        if path != "#" and not path.startswith("#/"):
            return schema
        for part in path.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                return schema
            found = found[part]
        schema = found
    return schema


def values_of(schema: Any, root: Mapping[str, Any], *, depth: int = 0) -> tuple[Any, ...] | None:
    """All scalars that are valid, in the schema's order; None where they are not scalars, not finitely many, or more than
    can be solved for."""
    schema = resolved(schema, root)
    if not isinstance(schema, dict) or depth > DEEPEST:
        return None
    keys = schema.keys() - NOTES
    for name in ("anyOf", "allOf"):
        if keys == {name} and isinstance(schema[name], list) and (name == "anyOf" or len(schema[name]) == 1):
            parts = [values_of(part, root, depth=depth + 1) for part in schema[name]]
            return None if None in parts else _different([value for part in parts for value in part or ()])
    if not keys <= {"type", "enum", "const", *BOUNDS}:
        return None
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds] if kinds is not None else None
    if "const" in schema or "enum" in schema:
        listed = [schema["const"]] if "const" in schema else schema["enum"]
        if "const" in schema and "enum" in schema or not isinstance(listed, list):
            return None
        if any(isinstance(value, (dict, list)) for value in listed):
            return None
        return _different([v for v in listed if _is_of(v, kinds) and _is_within(v, schema)])
    if kinds is None:
        return None
    found: list[Any] = []
    for kind in kinds:
        if kind == "boolean":
            found += [True, False]
        elif kind == "null":
            found.append(None)
        elif kind == "integer" and (numbers := _integers(schema)) is not None:
            found += numbers
        else:
            return None
    return _different(found)


def _different(values: list[Any]) -> tuple[Any, ...] | None:
    found = tuple({key_of(value): value for value in reversed(values)}.values())[::-1]
    return found if 0 < len(found) <= MOST_OPTIONS else None


def _integers(schema: Mapping[str, Any]) -> list[int] | None:
    low = max([math.ceil(schema["minimum"])] if "minimum" in schema else [], default=None)
    if "exclusiveMinimum" in schema:
        bound = math.floor(schema["exclusiveMinimum"]) + 1
        low = bound if low is None else max(low, bound)
    high = math.floor(schema["maximum"]) if "maximum" in schema else None
    if "exclusiveMaximum" in schema:
        bound = math.ceil(schema["exclusiveMaximum"]) - 1
        high = bound if high is None else min(high, bound)
    by = schema.get("multipleOf", 1)
    if low is None or high is None or not isinstance(by, int) or by < 1:
        return None
    first = -(-low // by) * by
    return list(range(first, high + 1, by)) if (high - first) // by < MOST_OPTIONS else None


def _is_of(value: Any, kinds: list[Any] | None) -> bool:
    if kinds is None:
        return True
    if value is None or isinstance(value, (bool, str)):
        name = "null" if value is None else "boolean" if isinstance(value, bool) else "string"
        return name in kinds
    return "number" in kinds or ("integer" in kinds and float(value).is_integer())


def _is_within(value: Any, schema: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    return (
        value >= schema.get("minimum", -math.inf)
        and value <= schema.get("maximum", math.inf)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
        and math.isclose(value / schema.get("multipleOf", value or 1) % 1, 0)
    )
