"""Many prompts: JSON Lines in, JSON Lines out, in the order they came."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from counterpoint.cli.options import SAMPLING_NAMES, drafting, guide_from, open_model, read_text
from counterpoint.errors import CounterpointError, PromptError, UsageError
from counterpoint.guide import Branch, Guide

if TYPE_CHECKING:
    from counterpoint.models.model import Model

FIELDS = ("prompt", "negative", "branches", "guide", "seed", "max_tokens", "id")


def run_many(path: str, options: dict[str, Any]) -> int:
    """Complete every line that can be read; name the others. Exit status 2 if there was one of those."""
    negative = read_text(options["negative"], options["negative_file"], name="negative")
    lines = list(_lines(path))
    if not lines:
        raise PromptError(f"{path!r} holds no line; give one JSON object a line, with a prompt")
    model = open_model(options)
    from rich.progress import Progress as Bar

    from counterpoint.engine import Engine, describe, prepare

    engine, waiting, done, num_broken = Engine(model, **drafting(options)), {}, {}, 0
    for number, line in lines:
        try:
            record = _record(line)
            request = prepare(model, record["prompt"], **_arguments(model, record, options, negative))
            waiting[engine.add(request)] = (number, record.get("id"))
        except CounterpointError as error:
            num_broken += 1
            print(f"counterpoint: {path} line {number}: {error}", file=sys.stderr)
    order = iter(sorted(waiting))
    with Bar(disable=not sys.stderr.isatty(), console=_stderr(), transient=True) as bar:
        task = bar.add_task("completing", total=len(waiting))
        next_id = next(order, None)
        for progress in engine.run():
            if progress.completion is None:
                continue
            done.setdefault(progress.request_id, []).append(progress.completion)
            if len(done[progress.request_id]) == options["num_samples"]:
                bar.advance(task)
            # A line is printed as soon as all before it are: whoever interrupts keeps what is there.
            while next_id is not None and len(done.get(next_id, ())) == options["num_samples"]:
                number, given_id = waiting[next_id]
                for completion in sorted(done.pop(next_id), key=lambda c: c.index):
                    record = {"line": number} | ({} if given_id is None else {"id": given_id})
                    print(json.dumps(record | describe(completion), ensure_ascii=False), flush=True)
                next_id = next(order, None)
    return 2 if num_broken else 0


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as source:
            for number, line in enumerate(source, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise PromptError(f"the file {path!r} can't be read: {error.strerror}") from None


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise PromptError(f"not valid UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise PromptError(f"not valid JSON: {error}") from None
    if not isinstance(record, dict) or "prompt" not in record:
        raise PromptError('not an object with a prompt; write {"prompt": "..."}')
    for name in record:
        if name not in FIELDS:
            raise UsageError(f"unknown field {name!r}; known are {', '.join(FIELDS)}")
    return record


def _arguments(model: Model, record: dict[str, Any], options: dict[str, Any], negative: str | None) -> dict[str, Any]:
    arguments = {name: options[name] for name in SAMPLING_NAMES}
    arguments |= {"n": options["num_samples"], "logprobs": options["logprobs"]}
    arguments |= {name: record[name] for name in ("seed", "max_tokens") if name in record}
    arguments["negative"] = record.get("negative", None if "branches" in record else negative)
    if "branches" in record:
        arguments["branches"] = _branches(model, record["branches"])
    if "guide" in record:
        given = record["guide"]
        arguments["guide"] = Guide.parse(given) if isinstance(given, str) else Guide.from_dict(given)
    else:
        arguments["guide"] = guide_from(options, negative=arguments["negative"])
    return arguments


def _branches(model: Model, listed: Any) -> list[Branch]:
    from counterpoint.wire import branch_from_wire

    if not isinstance(listed, list) or not listed:
        raise PromptError(f"branches is {listed!r:.60}; give a list of objects")
    return [branch_from_wire(fields, model=model) for fields in listed]


def _stderr():
    from rich.console import Console

    return Console(stderr=True)
