"""Many prompts: JSON Lines in, JSON Lines out, in the order they came."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from counterpoint.batch.lines import Line, read_lines
from counterpoint.cli.command import Options
from counterpoint.cli.constraints import constraint_from
from counterpoint.cli.contexts import load_vectors
from counterpoint.cli.options import drafting, guide_from, open_model, read_text, sampling_from, token_bar
from counterpoint.cli.watching import watching
from counterpoint.errors import CounterpointError, PromptError, UsageError

if TYPE_CHECKING:
    from counterpoint.batch.own import Defaults
    from counterpoint.engine import Request
    from counterpoint.models.model import Model


def run_many(path: str, options: Options) -> int:
    """Complete every line that can be read; name the others. Exit status 2 if there was one of those."""
    negative = read_text(options["negative"], options["negative_file"], name="negative")
    lines, broken = [], []
    for number, line in _lines(path):
        if isinstance(line, Line):
            lines.append(line)
        else:
            broken.append((number, str(line)))
    _tell(path, broken)
    if not lines:
        raise PromptError(f"{path!r} holds no line that can be run; give one JSON object a line, with a prompt")
    model = open_model(options)
    load_vectors(model, options)
    from counterpoint.batch.own import Defaults
    from counterpoint.batch.run import run_all
    from counterpoint.engine import Engine, describe

    defaults = Defaults(
        {
            **sampling_from(options),
            "n": options["num_samples"],
            "logprobs": options["logprobs"],
            "loop": options["loop"],
            "constraint": constraint_from(options),
            **watching(options),
        },
        guide=guide_from(options, negative=negative),
        negative=negative,
    )
    requests = [(line.number, _request(model, line, defaults)) for line in lines]
    _tell(path, [(number, str(request)) for number, request in requests if isinstance(request, Exception)])
    good = [(number, request) for number, request in requests if not isinstance(request, Exception)]
    ids = {line.number: line.id for line in lines}
    num_failed = len(requests) - len(good) + len(broken)
    total = sum(request.max_tokens * request.num_samples for _, request in good)
    with token_bar("completing", total) as advance:
        for answer in run_all(Engine(model, **drafting(options)), good, on_progress=advance):
            if answer.error is not None:
                num_failed += 1
                _tell(path, [(answer.key, str(answer.error))])
            # A line is printed as soon as all before it are: whoever interrupts keeps what is there.
            for completion in answer.completions:
                head = {"line": answer.key} | ({} if ids[answer.key] is None else {"id": ids[answer.key]})
                print(json.dumps(head | describe(completion), ensure_ascii=False), flush=True)
    return 2 if num_failed else 0


def _lines(path: str) -> Iterator[tuple[int, Line | UsageError]]:
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as source:
            yield from read_lines(source)
    except OSError as error:
        raise PromptError(f"the file {path!r} can't be read: {error.strerror}") from None


def _request(model: Model, line: Line, defaults: Defaults) -> Request | Exception:
    from counterpoint.batch.own import request_of

    try:
        return request_of(model, line, defaults)
    except CounterpointError as error:
        return error


def _tell(path: str, broken: list[tuple[int, str]]) -> None:
    """One line for each mistake, with all the lines that have it."""
    numbers: dict[str, list[int]] = {}
    for number, message in broken:
        numbers.setdefault(message, []).append(number)
    for message, where in numbers.items():
        listed = ", ".join(map(str, where[:5])) + (f" and {len(where) - 5} more" if len(where) > 5 else "")
        word = "line" if len(where) == 1 else "lines"
        print(f"counterpoint: {path} {word} {listed}: {' '.join(message.split())}", file=sys.stderr)
