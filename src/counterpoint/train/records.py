"""Records of text with conditions, read from `*.jsonl` and `*.jsonl.xz`. A broken record is named, skipped and counted."""

import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from counterpoint.errors import UsageError

_QUOTES = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "‚": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "…": "...",
        "–": "-",
        "‐": "-",
        "‑": "-",
        "―": "—",
        "\u00a0": " ",
        "\u2009": " ",
        "\u200a": " ",
        "\u202f": " ",
        "\u2060": None,
        "\ufeff": None,
        "\u00ad": None,
        "\u200b": None,
        "\r": None,
        "\t": " ",
    }
)
_BRACKETED = re.compile(r"\s*\[[^\]]*\]\s*")
WRAPPED_LEN = 45


@dataclass(frozen=True, slots=True)
class Record:
    """One text. conditions: name -> values (at least one each). group: the book or data set that it is part of."""

    text: str
    conditions: dict[str, tuple[str, ...]]
    group: str
    title: str


@dataclass(slots=True)
class Broken:
    """What was skipped: how many, and the first few by name."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < 5:
            self.first.append(name)


def normalise(text: str) -> str:
    """One style of quotes, dashes and spaces; hard line wraps undone (lines that are short on average, verse, stay)."""
    text = text.translate(_QUOTES).replace("``", '"').replace("''", '"').replace("--", "—")
    paragraphs = []
    for paragraph in re.split(r"\n[ ]*\n\s*", text):
        lines = [" ".join(line.split()) for line in paragraph.split("\n")]
        lines = [line for line in lines if line]
        if not lines:
            continue
        body = lines[:-1]
        wrapped = bool(body) and sum(map(len, body)) / len(body) >= WRAPPED_LEN
        paragraphs.append((" " if wrapped else "\n").join(lines))
    return "\n\n".join(paragraphs)


def _values(value: object) -> tuple[str, ...]:
    each = value if isinstance(value, list) else [value]
    cleaned = (_BRACKETED.sub(" ", normalise(str(v))).strip() for v in each if v is not None)
    return tuple(v for v in cleaned if v and v != "NA")


def find_file(folder: Path, name: str) -> Path:
    """`name.jsonl.xz` or `name.jsonl` in the folder. Raises UsageError where neither is there."""
    for ending in (".jsonl.xz", ".jsonl"):
        path = folder / f"{name}{ending}"
        if path.is_file():
            return path
    raise UsageError(f"no {name}.jsonl.xz or {name}.jsonl in {folder}; name the data folder or leave the source out")


def _parse(line: str, only: str) -> Record | None:
    """A record, or None where `only` leaves it out. Raises ValueError with the reason for a broken one."""
    raw = json.loads(line)
    if not isinstance(raw, dict) or not isinstance(raw.get("text"), str) or not isinstance(raw.get("cond", {}), dict):
        raise ValueError("needs `text` (a string), and `cond` (where it has one) to be an object")
    if only:
        name, _, wanted = only.partition("=")
        if str(raw.get(name)) != wanted:
            return None
    text = normalise(raw["text"])
    if not text:
        raise ValueError("its text is empty")
    if (text.count("�") + text.count("Ã")) * 500 > len(text):
        raise ValueError("its text was decoded wrongly")
    conditions = {name: _values(value) for name, value in raw.get("cond", {}).items()}
    group = str(raw.get("source") or "")
    return Record(text, {n: v for n, v in conditions.items() if v}, group, str(raw.get("title") or ""))


def read_records(path: Path, *, only: str = "", broken: Broken) -> Iterator[Record]:
    """The records of one file, in order. What can't be used is added to `broken` as `file:line: reason`."""
    opener = lzma.open if path.suffix == ".xz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    record = _parse(line, only)
                except ValueError as error:
                    reason = "is not JSON" if isinstance(error, json.JSONDecodeError) else error
                    broken.add(f"{path.name}:{number}: {reason}")
                    continue
                if record is not None:
                    yield record
    except (lzma.LZMAError, EOFError) as error:
        broken.add(f"{path.name}:{number + 1}: the file ends or breaks here ({error})")
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
