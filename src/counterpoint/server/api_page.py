"""The page at `/docs`: the document at `/openapi.json` for people, without anything from another site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = Path(__file__).parent / "page" / "docs.html.j2"


def api_page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(title=document["info"]["title"], routes=list(_routes(document)))


def _routes(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            content = route.get("requestBody", {}).get("content", {})
            body = next(iter(content.values()), {}).get("schema", {})
            body = schemas[body["$ref"].rpartition("/")[2]] if "$ref" in body else body
            yield {
                "method": method.upper(),
                "path": path,
                "summary": route.get("summary", ""),
                "fields": list(_fields(body)),
                "answers": [(status, answer["description"]) for status, answer in sorted(route["responses"].items())],
            }


def _fields(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, schema in body.get("properties", {}).items():
        yield {
            "name": name,
            "required": name in body.get("required", ()),
            "kind": _kind(schema),
            "about": schema.get("description", ""),
        }


def _kind(schema: Mapping[str, Any]) -> str:
    """In a few words: `text or list of texts`, `number from 0 to 1`."""
    if "anyOf" in schema:
        kinds = [_kind(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return ", ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return "object"
    kind = {"string": "text", "array": "list", "boolean": "true or false", "integer": "whole number"}.get(
        schema.get("type", ""), schema.get("type", "anything")
    )
    if kind == "list" and schema.get("items"):
        return f"list of ({_kind(schema['items'])})"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None and abs(high) < 1e6:
        kind += f" from {low:g} to {high:g}"
    return kind
