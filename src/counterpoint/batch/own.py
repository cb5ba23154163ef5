"""Lines answered by our own engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.batch.job import Result, Task
from counterpoint.batch.lines import Line
from counterpoint.batch.run import WINDOW, run_all
from counterpoint.contexts import Empty
from counterpoint.engine import Engine, Request, describe, prepare
from counterpoint.errors import CounterpointError
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.wire import branch_from_wire


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a line that says nothing else.

    Args:
        options: of generation, as in `counterpoint.generate`.
        guide, negative: None is none.
        seed: line n samples with `seed + n`; None leaves each to chance.
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    guide: Guide | None = None
    negative: Any = None
    seed: int | None = None


def request_of(model: Model, line: Line, defaults: Defaults) -> Request:
    """The request that a line asks for.

    Raises:
        CounterpointError: it can't be asked of this model.
    """
    arguments: dict[str, Any] = {**defaults.options, **dict(line.options or {})}
    if arguments.get("seed") is None and defaults.seed is not None:
        arguments["seed"] = defaults.seed + line.number
    if line.branches is not None:
        arguments["branches"] = [branch_from_wire(fields, model=model) for fields in line.branches]
    else:
        arguments["negative"] = defaults.negative if line.negative is None else line.negative
    prompt: Any = Empty() if line.prompt is None else line.prompt
    return prepare(model, prompt, guide=line.guide or defaults.guide, **arguments)


class OwnEngine:
    """A runner of lines (`batch.forms.Lines`) on one engine.

    Args:
        window: most lines that are begun and not answered.
    """

    def __init__(self, engine: Engine, defaults: Defaults, *, window: int = WINDOW) -> None:
        self._engine, self._defaults, self._window = engine, defaults, window

    def __call__(self, tasks: Iterator[Task]) -> Iterable[Result]:
        begun: dict[int, Task] = {}
        for answer in run_all(self._engine, self._requests(tasks, begun), in_order=False, window=self._window):
            task = begun.pop(answer.key)
            if answer.error is not None:
                yield Result(task, error=answer.error)
            else:
                yield Result(task, answer=[describe(completion) for completion in answer.completions])

    def _requests(self, tasks: Iterator[Task], begun: dict[int, Task]) -> Iterator[tuple[int, Request | Exception]]:
        for task in tasks:
            begun[task.number] = task
            try:
                yield task.number, request_of(self._engine.model, task.asked, self._defaults)
            except CounterpointError as error:
                yield task.number, error
