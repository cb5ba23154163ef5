"""The JSON Schema Test Suite: which schemas are taken, and whether an invalid instance can be written under one."""

from __future__ import annotations

import collections
import json
import re
from pathlib import Path
from typing import Any

import counterpoint as cp
from counterpoint.constraints import Json
from counterpoint.errors import ConstraintError

DRAFT = "draft2020-12"


def measure_suite(folder: Path, *, say: Any) -> dict[str, Any]:
    """Every case of the draft: refused by name, or each of its instances written token by token.

    Args:
        folder: the suite's own, with `tests/draft2020-12` in it; it ships in the source package of `jsonschema`.
    """
    model = cp.load("bundled", dtype="float32")
    counts: collections.Counter[str] = collections.Counter()
    refused: collections.Counter[str] = collections.Counter()
    by_file: dict[str, dict[str, int]] = {}
    wrong = []
    for path in sorted((folder / "tests" / DRAFT).glob("*.json")):
        own = by_file.setdefault(path.stem, {"taken": 0, "refused": 0})
        for case in json.loads(path.read_text(encoding="utf-8")):
            try:
                state = Json(case["schema"]).compile(model)
            except ConstraintError as error:
                own["refused"] += 1
                counts["schemas refused"] += 1
                refused.update(_named(str(error)))
                continue
            own["taken"] += 1
            counts["schemas taken"] += 1
            for test in case["tests"]:
                written = _can_write(model, state.start(), test["data"])
                counts[f"{'valid' if test['valid'] else 'invalid'}, {'written' if written else 'not written'}"] += 1
                if written and not test["valid"]:
                    wrong.append({"file": path.stem, "case": case["description"], "test": test["description"]})
    say(f"{dict(counts)}; wrong: {wrong}")
    return {"draft": DRAFT, "counts": dict(counts), "refused": dict(refused), "files": by_file, "wrong": wrong}


def _can_write(model: cp.Model, state: Any, data: Any) -> bool:
    """Whether one of the usual ways to write the instance keeps the constraint."""
    for separators in ((", ", ": "), (",", ":")):
        text = json.dumps(data, ensure_ascii=False, separators=separators)
        own, ids = state.fork(), model.encode(text, special_tokens=False)
        if own.num_allowed(ids) == len(ids):
            try:
                for token_id in ids:
                    own.accept(token_id)
            except ConstraintError:  # rules over several choices are told token by token
                continue
            if own.complete:
                return True
    return False


def _named(message: str) -> set[str]:
    """The keywords that a refusal names."""
    listed = re.search(r"Unimplemented keys: \[(.*?)\]", message)
    if listed:
        return set(re.findall(r'"([^"]+)"', listed[1]))
    for word in ("uniqueItems", "oneOf", "$ref", "multipleOf", "pattern", "format", "allOf"):
        if word in message:
            return {word}
    return {"no text keeps it" if "no text keeps" in message or "nsatisfiable" in message else message[:60]}
