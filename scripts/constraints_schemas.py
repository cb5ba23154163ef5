"""30 schemas, many samples of each on several models, and what an independent validator says of them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import counterpoint as cp
from counterpoint.constraints import Json
from counterpoint.engine import Engine, prepare

TEXT = {"type": "string", "maxLength": 12}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: Any, least: int = 0, most: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


SCHEMAS: dict[str, Any] = {
    "a text": TEXT,
    "a short text": {"type": "string", "minLength": 3, "maxLength": 5},
    "a boolean": {"type": "boolean"},
    "null or a number": {"type": ["null", "number"]},
    "an integer in a range": {"type": "integer", "minimum": -17, "maximum": 4321},
    "an integer above": {"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 103},
    "a number in a range": {"type": "number", "minimum": 0.5, "maximum": 2.25},
    "a multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "an enumeration": {"enum": ["red", "dark green", 3, None, True, {"a": [1]}]},
    "a constant": {"const": {"kind": "x", "list": [1, 2]}},
    "a pattern": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
    "a date": {"type": "string", "format": "date"},
    "a date and time": {"type": "string", "format": "date-time"},
    "an e-mail address": {"type": "string", "format": "email"},
    "an IPv4 address": {"type": "string", "format": "ipv4"},
    "a UUID": {"type": "string", "format": "uuid"},
    "a list with bounds": _list({"type": "integer", "minimum": 0, "maximum": 9}, 2, 4),
    "a tuple": {"type": "array", "prefixItems": [TEXT, {"type": "integer"}], "items": False, "minItems": 2},
    "a list of lists": _list(_list({"type": "boolean"}, 1, 2), 1, 2),
    "an object": _object(name=TEXT, age={"type": "integer", "minimum": 0, "maximum": 150}),
    "nested objects": _object(a=_object(b=_object(c={"type": "boolean"}, d=TEXT), e={"type": "null"})),
    "an optional key": {"type": "object", "properties": {"a": TEXT, "b": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    "other keys": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": {"type": "boolean"}},
    "a list of objects": _list(_object(id={"type": "integer"}, tag={"enum": ["p", "q"]}), 1, 2),
    "one of two": {"anyOf": [_object(kind={"const": "circle"}, r={"type": "number"}), _object(kind={"const": "text"}, t=TEXT)]},
    "a text or a list": {"anyOf": [TEXT, _list(TEXT, 1, 2)]},
    "a reference": {"$defs": {"point": POINT}, **_object(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"})},
    "a tree": {"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, "required": ["v", "next"], "additionalProperties": False}}, "$ref": "#/$defs/node"},
    "all of two": {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": TEXT}, "required": ["b"]}]},
    "a tool's arguments": _object(city={"type": "string", "minLength": 1, "maxLength": 20}, unit={"enum": ["celsius", "fahrenheit"]}, days={"type": "integer", "minimum": 1, "maximum": 14}),
}  # fmt: skip

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 4200, "eos_token_id": 1, "initializer_range": 0.25}
HEADS = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def models() -> dict[str, cp.Model]:
    """SmolLM2, the bundled model, and three with random weights and its tokenizer."""
    bundled = cp.load("bundled", dtype="float32")

    def made(kind: type[PreTrainedModel], config: Any) -> cp.Model:
        torch.manual_seed(0)
        return cp.Model(kind(config), bundled.tokenizer, name=kind.__name__)

    return {
        "SmolLM2, 4 bits": cp.load("smollm2", weights="int4"),
        "bundled": bundled,
        "random Llama": made(LlamaForCausalLM, LlamaConfig(**SMALL, **HEADS)),
        "random Qwen3": made(Qwen3ForCausalLM, Qwen3Config(**SMALL, **HEADS, head_dim=8)),
        "random Mamba": made(MambaForCausalLM, MambaConfig(**SMALL, state_size=4)),
    }


def measure_samples(*, samples: int, seed: int, say: Any) -> dict[str, Any]:
    """How many samples of each schema are complete, and how many of those are invalid.

    Args:
        samples: of each schema on each model, every other one guided in prob space at scale 3 and the others in log space
            with plausibility 0.1.
    """
    valid = {name: jsonschema_rs.validator_for(schema, validate_formats=True) for name, schema in SCHEMAS.items()}
    by_schema = {name: {"complete": 0, "cut": 0, "invalid": 0} for name in SCHEMAS}
    by_model, wrong = {}, []
    for name, model in models().items():
        by_model[name] = {"complete": 0, "cut": 0, "invalid": 0}
        guides = [cp.Guide(scale=3.0, space="prob"), cp.Guide(scale=2.0, plausibility=0.1)]
        asked = [(schema, at) for schema in SCHEMAS for at in range(samples)]
        requests = [
            prepare(
                model, "The answer is", negative="A question was", guide=guides[at % 2], seed=seed + at, max_tokens=120,
                constraint=Json(SCHEMAS[schema]),
            )
            for schema, at in asked
        ]  # fmt: skip
        for (schema, at), done in zip(asked, Engine(model).complete(requests), strict=True):
            text = done[0].text
            kind = "cut"
            if done[0].complete:
                kind = "complete" if valid[schema].is_valid(json.loads(text)) else "invalid"
            elif done[0].finish_reason != "length":
                kind = "invalid"
            by_schema[schema][kind] += 1
            by_model[name][kind] += 1
            if kind == "invalid":
                wrong.append({"schema": schema, "model": name, "seed": seed + at, "text": text})
        say(f"{name}: {by_model[name]}")
    return {"samples": samples, "seed": seed, "schemas": by_schema, "models": by_model, "wrong": wrong}
