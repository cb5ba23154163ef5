"""Lines of JSON as prompts: which fields a line has, and what they amount to.

{"prompt": TEXT or [ID, ...]}     required; null begins from nothing
"negative": TEXT or [ID, ...]     what to move away from
"branches": [OBJECT, ...]         several contexts with weights, as in `counterpoint.wire`
"guide": OBJECT or "scale=3,..."  the guide; or its fields by themselves: "scale", "space", "plausibility", "gate", ...
"max_tokens", "temperature", ...  options of generation, as in `counterpoint.generate`
"id": anything                    given back with the answer
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.errors import GuideError, PromptError, UsageError
from counterpoint.guide import Guide

#: fields of the guide that a line may have by themselves; `stop` is the option of generation
GUIDE_FIELDS = ("scale", "space", "plausibility", "gate", "start", "adaptive")
#: options of generation that JSON can hold
OPTION_FIELDS = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "stop", "stop_ids", "ignore_eos", "seed", "n", "logprobs", "loop",
)  # fmt: skip
FIELDS = ("prompt", "negative", "branches", "guide", *GUIDE_FIELDS, *OPTION_FIELDS, "id")
#: what other tools write, and what it is here
ELSEWHERE = {
    "guidance_scale": "scale", "cfg_scale": "scale", "negative_prompt": "negative", "max_new_tokens": "max_tokens",
    "text": "prompt", "custom_id": "id", "stop_token_ids": "stop_ids",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One prompt with what its line says of it.

    Args:
        number: of the line in its file, from 1.
        prompt: a text, token ids, or None to begin from nothing.
        id: the caller's own name for it.
        guide: None where the line says nothing of it.
        negative: a text or token ids.
        branches: objects as they came; a model is needed to read them.
        options: options of generation.
    """

    number: int
    prompt: Any
    id: Any = None
    guide: Guide | None = None
    negative: Any = None
    branches: tuple[Any, ...] | None = None
    options: Mapping[str, Any] | None = None


def read_lines(source: Iterable[bytes]) -> Iterator[tuple[int, Line | UsageError]]:
    """Each line that holds something, or what is wrong with it, with its number from 1."""
    for number, text in enumerate(source, 1):
        if text.strip():
            try:
                yield number, read_line(text, number)
            except UsageError as error:
                yield number, error


def read_object(text: bytes, wanted: str) -> dict[str, Any]:
    """A line's JSON object.

    Raises:
        PromptError: it is none; the message ends in what is wanted.
    """
    try:
        # Editors and shells of Windows put a mark before the first line.
        record = json.loads(text.removeprefix(codecs.BOM_UTF8).decode(), parse_constant=_no_number, parse_float=_number)
    except UnicodeDecodeError as error:
        raise PromptError(f"not valid UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise PromptError(f"not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise PromptError(f"not {wanted}")
    return record


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text:.40} is no finite number")


def read_line(text: bytes, number: int = 1) -> Line:
    """One line. Everything is checked that needs no model.

    Raises:
        UsageError: it is no JSON object with a prompt, or a field is unknown, given twice or of the wrong kind.
    """
    record = read_object(text, 'an object with a prompt; write {"prompt": "..."}')
    for name in record:
        if name not in FIELDS:
            hint = f"write {ELSEWHERE[name]!r}" if name in ELSEWHERE else f"known are {', '.join(FIELDS)}"
            raise UsageError(f"unknown field {name!r}; {hint}", param=name)
    if "prompt" not in record:
        raise PromptError('not an object with a prompt; write {"prompt": "..."}')
    branches = record.get("branches")
    if branches is not None and (not isinstance(branches, list) or not branches):
        raise PromptError(f"branches is {branches!r:.60}; give a list of objects", param="branches")
    if branches is not None and record.get("negative") is not None:
        raise GuideError("both negative and branches are given; keep one", param="branches")
    options = {name: record[name] for name in OPTION_FIELDS if record.get(name) is not None}
    if isinstance(options.get("logit_bias"), dict):  # JSON has no numbers as keys
        options["logit_bias"] = {int(i) if i.isdigit() else i: bias for i, bias in options["logit_bias"].items()}
    if isinstance(options.get("loop"), list):
        options["loop"] = tuple(options["loop"])
    return Line(
        number,
        record["prompt"],
        id=record.get("id"),
        guide=_guide(record),
        negative=record.get("negative"),
        branches=None if branches is None else tuple(branches),
        options=options,
    )


def _guide(record: Mapping[str, Any]) -> Guide | None:
    loose = {name: record[name] for name in GUIDE_FIELDS if record.get(name) is not None}
    given = record.get("guide")
    if given is not None and loose:
        raise GuideError(f"guide and {next(iter(loose))} are both given; keep one", param="guide")
    if given is None:
        return Guide(**loose) if loose else None
    if isinstance(given, str):
        return Guide.parse(given)
    if not isinstance(given, dict):
        raise GuideError(f'guide is {given!r:.60}; give an object, or a text as "scale=3,space=prob"', param="guide")
    return Guide.from_dict(given)
