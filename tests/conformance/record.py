"""The recorded results of `scripts/conformance --write`, and the tables that the docs show of them."""

from __future__ import annotations

import json
from pathlib import Path

from conformance.architectures import ARCHITECTURES
from conformance.cases import CASES

RECORD = Path(__file__).with_name("record.json")
UPSTREAM = "transformers' own"
UPSTREAM_ARCHITECTURES = ("gpt2", "llama", "mistral", "mamba", "rwkv", "t5", "qwen2_5_vl")
SIGNS = {"right": "yes", "refused": "refused", "wrong": "**wrong**", "error": "**error**", "-": "–"}

Record = dict[str, dict[str, dict[str, str]]]


def read_record() -> Record:
    """integration -> architecture -> case -> "right", "refused", "wrong", "error" or "-"."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def tables(record: Record) -> str:
    """The record as Markdown."""
    parts = []
    if UPSTREAM in record:
        names = [name for name in UPSTREAM_ARCHITECTURES if name in record[UPSTREAM]]
        parts.append(
            "transformers' own `guidance_scale` and `negative_prompt_ids`:\n\n" + _table(record[UPSTREAM], names)
        )
    for integration, title in (
        ("generate", "`custom_generate=counterpoint.transformers.generate`"),
        ("processor", "`GuidanceLogitsProcessor` in transformers' own loops"),
        ("engine", "`counterpoint.generate`, under the same laws"),
    ):
        if integration in record:
            names = [name for name in ARCHITECTURES if name in record[integration]]
            parts.append(f"{title}:\n\n" + _table(record[integration], names))
    return "\n".join(parts)


def _table(results: dict[str, dict[str, str]], names: list[str]) -> str:
    lines = ["| case | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for case in CASES:
        kinds = [results[name].get(case, "-") for name in names]
        if any(kind != "-" for kind in kinds):
            lines.append(f"| {case} | " + " | ".join(SIGNS[kind] for kind in kinds) + " |")
    return "\n".join(lines) + "\n"
