"""The recorded results of `scripts/conformance --write`, and the tables that the docs show of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from conformance.architectures import ARCHITECTURES
from conformance.cases import CASES

RECORD = Path(__file__).with_name("record.json")
UPSTREAM = "transformers' own"
SIGNS = {"right": "yes", "refused": "refused", "wrong": "**wrong**", "error": "**error**", "-": "–"}

#: integration -> architecture -> case -> "right", "refused", "wrong", "error" or "-"
Cells = dict[str, dict[str, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Record:
    """Results, all of them with the same versions of what they depend on."""

    versions: dict[str, str]
    cells: Cells


def installed() -> dict[str, str]:
    """The versions that results are recorded with."""
    return {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0]}


def read_record() -> Record:
    """What is recorded; nothing where nothing is."""
    return Record(**json.loads(RECORD.read_text())) if RECORD.exists() else Record(installed(), {})


def write_record(integration: str, architecture: str, kinds: dict[str, str]) -> None:
    """Record some cases of an architecture. What was recorded with other versions is forgotten."""
    record = read_record()  # read late: another run may have written meanwhile
    cells = record.cells if record.versions == installed() else {}
    cells.setdefault(integration, {}).setdefault(architecture, {}).update(kinds)
    RECORD.write_text(json.dumps({"versions": installed(), "cells": cells}, indent=1, sort_keys=True) + "\n")


def tables(record: Record) -> str:
    """The record as Markdown."""
    cells = record.cells
    versions = " and ".join(f"{name} {version}" for name, version in sorted(record.versions.items(), reverse=True))
    parts = [f"Recorded with {versions}.\n"]
    for integration, title in (
        (UPSTREAM, "transformers' own `guidance_scale` and `negative_prompt_ids`"),
        ("generate", "`custom_generate=counterpoint.transformers.generate`"),
        ("processor", "`GuidanceLogitsProcessor` in transformers' own loops"),
        ("engine", "`counterpoint.generate`, under the same laws"),
    ):
        if integration in cells:
            names = [name for name in ARCHITECTURES if name in cells[integration]]
            parts.append(f"{title}:\n\n" + _table(cells[integration], names))
    return "\n".join(parts)


def _table(results: dict[str, dict[str, str]], names: list[str]) -> str:
    lines = ["| case | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for case in CASES:
        kinds = [results[name].get(case, "-") for name in names]
        if any(kind != "-" for kind in kinds):
            lines.append(f"| {case} | " + " | ".join(SIGNS[kind] for kind in kinds) + " |")
    return "\n".join(lines) + "\n"
