"""The recorded results of `scripts/sweep`, one file for each version of transformers, and the table that the docs show."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

FOLDER = Path(__file__).parent / "records"
KINDS = {
    "causal": "causal language models",
    "encoder": "encoder-decoders",
    "image": "vision-language models, prompts of text",
}
SIGNS = ("right", "refused", "theirs", "wrong", "crash")


@dataclass(slots=True)
class Line:
    """What was found of one class.

    Args:
        kind: "causal", "encoder" or "image".
        plain: None where transformers' own forward of a text without a cache works; else what it raised.
        found: of each check "right", "refused: …", "theirs: …" (transformers fails by itself), "wrong: …" or
            "crash: …".
    """

    kind: str
    plain: str | None = None
    found: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst of the checks; "no model" where there is nothing to compare with."""
        if self.plain is not None:
            return "no model"
        words = {result.partition(":")[0] for result in self.found.values()}
        return next((word for word in ("crash", "wrong", "theirs", "refused") if word in words), "right")


@dataclass(slots=True)
class Record:
    """The lines of one sweep, with the versions that they were found with."""

    versions: dict[str, str]
    lines: dict[str, Line] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file as a whole or not at all."""
        lines = {
            name: {"kind": line.kind, **({"plain": line.plain} if line.plain else {}), "found": line.found}
            for name, line in sorted(self.lines.items())
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(json.dumps({"versions": self.versions, "lines": lines}, indent=1, ensure_ascii=False) + "\n")
        beside.replace(path)

    def counts(self, kind: str, check: str) -> Counter[str]:
        """How often a check of the classes of a kind had each result."""
        results = (line.found.get(check) for line in self.lines.values() if line.kind == kind and line.plain is None)
        return Counter(result.partition(":")[0] for result in results if result is not None)


def installed() -> dict[str, str]:
    """The versions that results are recorded with."""
    return {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0]}


def path_of(version: str) -> Path:
    """Where the results with this version of transformers are."""
    return FOLDER / f"transformers-{version}.json"


def read_record(path: Path) -> Record:
    """What is recorded; an empty record with the installed versions where nothing is."""
    if not path.exists():
        return Record(installed())
    kept = json.loads(path.read_text())
    lines = {name: Line(line["kind"], line.get("plain"), line["found"]) for name, line in kept["lines"].items()}
    return Record(kept["versions"], lines)


def recorded() -> list[Record]:
    """All records, the newest version of transformers first."""

    def version(record: Record) -> tuple[int, ...]:
        return tuple(int(part) for part in record.versions["transformers"].split(".")[:3])

    return sorted((read_record(path) for path in FOLDER.glob("*.json")), key=version, reverse=True)


def table(record: Record, checks: list[str], kinds: Mapping[str, tuple[str, ...]]) -> str:
    """How many classes have each result, and every class that is not right everywhere, as Markdown.

    Args:
        kinds: of classes that each check applies to.
    """
    versions = " and ".join(f"{name} {version}" for name, version in sorted(record.versions.items(), reverse=True))
    parts = [f"With {versions}:\n"]
    for kind, title in KINDS.items():
        lines = {name: line for name, line in record.lines.items() if line.kind == kind}
        if not lines:
            continue
        able = [line for line in lines.values() if line.plain is None]
        whole = sum(all(check in line.found for check in checks if kind in kinds[check]) for line in able)
        parts.append(f"**{title}**: {len(able)} classes recorded, {whole} of them in every check:\n")
        rows = [
            "| check | right | refused | fails in transformers without us | wrong | crash |",
            "|---|---|---|---|---|---|",
        ]
        for check in checks:
            counts = record.counts(kind, check)
            if counts:
                rows.append(f"| {check} | " + " | ".join(str(counts[sign]) for sign in SIGNS) + " |")
        parts.append("\n".join(rows) + "\n")
        found = Counter(result.partition(":")[0] for line in able for result in line.found.values())
        share = found["refused"] / max(found.total(), 1)
        parts.append(
            f"Of {found.total()} results, {found['right']} are right and {found['refused']} refused ({share:.1%}).\n"
        )
        everywhere = sorted(name for name, line in lines.items() if line.verdict == "right")
        parts.append("Right in every check recorded: " + ", ".join(everywhere) + ".\n")
        rest = {name: line for name, line in sorted(lines.items()) if line.verdict not in ("right", "no model")}
        if rest:
            rows = ["| class | what is not right |", "|---|---|"]
            for name, line in rest.items():
                rows.append(f"| {name} | {_summary(line)} |")
            parts.append("\n".join(rows) + "\n")
        without = {name: line.plain for name, line in sorted(lines.items()) if line.plain is not None}
        if without:
            rows = ["| class | transformers' own forward of a text, with no cache |", "|---|---|"]
            rows += [f"| {name} | {_cell(reason or '')} |" for name, reason in without.items()]
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _summary(line: Line) -> str:
    """Checks with one result side by side."""
    together: dict[str, list[str]] = {}
    for check, result in line.found.items():
        if result != "right":
            together.setdefault(result, []).append(check)
    return _cell("; ".join(f"{', '.join(checks)}: {result}" for result, checks in together.items()))


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")[:400]
