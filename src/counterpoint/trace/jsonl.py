"""A trace as JSON Lines and back: a header, a line for each step, and a last line that says it is whole.

The format is described in docs/trace.md. A log-probability of null is minus infinity.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from counterpoint.errors import UsageError
from counterpoint.guide import Guide
from counterpoint.trace.record import GUIDANCE, ArtefactLimits, Seen, Step, Trace, TracedBranch

FORMAT = "counterpoint-trace"
VERSION = 1


def lines(trace: Trace) -> Iterator[str]:
    """The lines of a trace, without line ends."""
    yield _dump(
        {
            "format": FORMAT,
            "version": VERSION,
            "model": trace.model,
            "prompt": trace.prompt,
            "branches": [{"name": b.name, "text": b.text, "weight": b.weight} for b in trace.branches],
            "guide": trace.guide.to_dict(),
            "sampling": dict(trace.sampling),
            "seed": trace.seed,
            "sample": trace.sample,
            "limits": {"rank": trace.limits.rank, "prob": trace.limits.prob},
        }
    )
    for step in trace.steps:
        yield _dump(step_fields(step, trace.labels))
    yield _dump({"end": len(trace.steps), "text": trace.text, "finish_reason": trace.finish_reason})


def step_fields(step: Step, labels: Mapping[int, str]) -> dict[str, Any]:
    """One step as plain JSON values."""
    return {
        "step": step.index,
        "token_id": step.token_id,
        "label": labels[step.token_id],
        "text": step.text,
        "guidance": step.guidance,
        "artefact": step.artefact,
        "entropy": step.entropy,
        "shift": step.shift,
        "divergence": list(step.divergence),
        "cond": _seen_fields(step.cond, labels),
        "branches": [_seen_fields(seen, labels) for seen in step.branches],
        "guided": _seen_fields(step.guided, labels),
        **({"kept": step.kept} if step.kept else {}),
    }


def write(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace as JSON Lines, in UTF-8.

    Raises:
        UsageError: the file can't be written.
    """
    try:
        Path(path).write_text("".join(f"{line}\n" for line in lines(trace)), encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"the trace can't be written to {str(path)!r}: {error.strerror}") from None


def read(path: str | os.PathLike[str]) -> Trace:
    """Read what `write` wrote.

    Raises:
        UsageError: the file can't be read, is no trace, is of another version, is damaged, or is truncated.
    """
    name = repr(str(path))
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"the trace {name} can't be read: {error.strerror}") from None
    return parse(content, name)


def parse(content: bytes, name: str) -> Trace:
    """The trace in the bytes of a file; `name` is what messages call it. Raises as `read`."""
    head, *rest = content.split(b"\n")
    header = _load(head)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UsageError(f"{name} is not a trace; its first line is not the header that `counterpoint trace` writes")
    if header.get("version") != VERSION:
        raise UsageError(
            f"{name} is a trace of version {header.get('version')!r} and this library reads version {VERSION}; "
            "trace again, or use the library that wrote it"
        )
    if rest and not rest[-1]:
        rest.pop()
    labels: dict[int, str] = {}
    steps: list[Step] = []
    end: dict[str, Any] | None = None
    number = 1
    try:
        fields = _header(header)
        for number, line in enumerate(rest, start=2):
            if end is not None:
                raise ValueError("there is more after the last line")
            record = _load(line)
            if not isinstance(record, dict):
                # A line cut in the middle is the usual end of a truncated file.
                if number == len(rest) + 1:
                    break
                raise ValueError("it is not a JSON object")
            if "end" in record:
                end = record
                if _count(record, "end") != len(steps):
                    raise ValueError(f"it announces {record['end']} steps after {len(steps)}")
                fields |= {"text": _text_or_none(record, "text"), "finish_reason": _text(record, "finish_reason")}
            else:
                step = _step(record, len(steps), labels)
                if len(step.branches) not in (0, len(fields["branches"])) or len(step.divergence) != len(step.branches):
                    raise ValueError(f"it has {len(step.branches)} branches and {len(step.divergence)} divergences")
                steps.append(step)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"the trace {name} is damaged at line {number}: {what}") from None
    if end is None:
        raise UsageError(f"the trace {name} is truncated: it breaks off after {len(steps)} whole steps; trace again")
    return Trace(steps=tuple(steps), labels=labels, **fields)


def _dump(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _seen_fields(seen: Seen, labels: Mapping[int, str]) -> dict[str, Any]:
    return {
        "logprob": None if seen.logprob == -math.inf else seen.logprob,
        "rank": seen.rank,
        "top": [[token_id, labels[token_id], logprob] for token_id, logprob in seen.top],
    }


def _load(line: bytes) -> Any:
    """The JSON value of a line; None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _header(record: dict[str, Any]) -> dict[str, Any]:
    limits = _object(record, "limits")
    return {
        "model": _text(record, "model"),
        "prompt": _text_or_none(record, "prompt"),
        "branches": tuple(
            TracedBranch(_text(b, "name"), _text_or_none(b, "text"), _number(b, "weight"))
            for b in _objects(record, "branches")
        ),
        "guide": Guide.from_dict(_object(record, "guide")),
        "sampling": _object(record, "sampling"),
        "seed": None if record["seed"] is None else _whole(record, "seed"),
        "sample": _count(record, "sample"),
        "limits": ArtefactLimits(_count(limits, "rank"), _number(limits, "prob")),
    }


def _step(record: dict[str, Any], index: int, labels: dict[int, str]) -> Step:
    if _count(record, "step") != index:
        raise ValueError(f"it is step {record['step']} where step {index} belongs")
    if _text(record, "guidance") not in GUIDANCE:
        raise ValueError(f"guidance is {record['guidance']!r}, which is none of {', '.join(GUIDANCE)}")
    token_id = _count(record, "token_id")
    labels[token_id] = _text(record, "label")
    divergence = record["divergence"]
    return Step(
        index=index,
        token_id=token_id,
        text=_text(record, "text"),
        guidance=record["guidance"],
        artefact=_flag(record, "artefact"),
        entropy=_number(record, "entropy"),
        shift=_number(record, "shift"),
        divergence=tuple(_finite(d, "divergence") for d in divergence),
        cond=_seen(_object(record, "cond"), labels),
        branches=tuple(_seen(seen, labels) for seen in _objects(record, "branches")),
        guided=_seen(_object(record, "guided"), labels),
        kept=_number(record, "kept") if "kept" in record else 0.0,
    )


def _seen(record: dict[str, Any], labels: dict[int, str]) -> Seen:
    top = []
    for token_id, label, logprob in record["top"]:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not isinstance(label, str):
            raise TypeError(f"{[token_id, label, logprob]!r} is not an alternative")
        labels[token_id] = label
        top.append((token_id, _finite(logprob, "logprob")))
    logprob = -math.inf if record["logprob"] is None else _number(record, "logprob")
    return Seen(logprob, _count(record, "rank"), tuple(top))


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(record[name], dict):
        raise TypeError(f"{name} is not an object")
    return record[name]


def _objects(record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    if not isinstance(record[name], list) or not all(isinstance(item, dict) for item in record[name]):
        raise TypeError(f"{name} is not a list of objects")
    return record[name]


def _text(record: dict[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise TypeError(f"{name} is {record[name]!r} and not a text")
    return record[name]


def _text_or_none(record: dict[str, Any], name: str) -> str | None:
    return None if record[name] is None else _text(record, name)


def _flag(record: dict[str, Any], name: str) -> bool:
    if not isinstance(record[name], bool):
        raise TypeError(f"{name} is {record[name]!r} and neither true nor false")
    return record[name]


def _whole(record: dict[str, Any], name: str) -> int:
    if isinstance(record[name], bool) or not isinstance(record[name], int):
        raise TypeError(f"{name} is {record[name]!r} and not a whole number")
    return record[name]


def _count(record: dict[str, Any], name: str) -> int:
    if _whole(record, name) < 0:
        raise ValueError(f"{name} is {record[name]!r} and below 0")
    return record[name]


def _number(record: dict[str, Any], name: str) -> float:
    return _finite(record[name], name)


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r} and not a finite number")
    return float(value)
