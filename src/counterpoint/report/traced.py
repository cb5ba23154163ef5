"""One trace to look at."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Unpack

from rich.console import Console, ConsoleOptions, RenderableType

from counterpoint.engine import Progress, RequestOptions
from counterpoint.engine.generate import Prompt
from counterpoint.engine.options import spelled_out
from counterpoint.models.loading import as_model
from counterpoint.models.model import Model
from counterpoint.report import page, terminal
from counterpoint.report.charts import step_ticks, strips
from counterpoint.report.metrics import measure
from counterpoint.report.shades import BOUNDS, notable, shade
from counterpoint.report.visible import label
from counterpoint.trace import ArtefactLimits, Seen, Step, Trace, record, record_unguided
from counterpoint.trace.record import GUIDANCE, LIMITS
from counterpoint.trace.recorder import NUM_ALTERNATIVES

MARKED_FROM = 100  # steps; a longer trace's table in a terminal has its notable steps only


@dataclass(frozen=True, slots=True)
class TraceReport:
    """A trace as a page, in a terminal (`rich.print`), or as the last value of a notebook's cell.

    Args:
        trace: what to show.
        unguided: what the same request writes without guidance, to stand beside it.
    """

    trace: Trace
    unguided: Trace | None = None

    def html(self) -> str:
        """A page of its own: the text with each token's numbers at hand, and charts along it."""
        trace = self.trace
        return page.render(
            "trace",
            "trace",
            trace=trace,
            unguided=self.unguided,
            metrics=measure([trace]) if trace.steps else None,
            tokens=[(step, shade(step)) for step in trace.steps],
            strips=strips(trace) if trace.steps else (),
            step_ticks=step_ticks(trace),
            notable=notable(trace.steps),
            bounds=BOUNDS,
            factors=[math.exp(bound) for bound in BOUNDS],
            data=page_data(trace),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file. Raises `UsageError` where that is not possible."""
        page.save(self.html(), path)

    def _repr_html_(self) -> str:
        return page.framed(self.html(), height=760)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        steps = self.trace.steps
        short = len(steps) <= MARKED_FROM
        yield from terminal.trace_view(
            self.trace, steps if short else notable(steps), options.max_width, terminal.palette_of(console)
        )
        if self.unguided is not None:
            yield terminal.unguided_view(self.unguided)


@spelled_out(RequestOptions)
def trace(
    model: Model | str, prompt: Prompt, *, num_alternatives: int = NUM_ALTERNATIVES, limits: ArtefactLimits = LIMITS,
    unguided: bool = False, on_progress: Callable[[Progress], None] | None = None, **options: Unpack[RequestOptions],
) -> TraceReport:  # fmt: skip
    """Continue a prompt and report every step.

    Args:
        model: what `counterpoint.load` gave, or a name for it.
        prompt: a text or token ids, or what a builder of `counterpoint.contexts` made of both prompt and branches.
        num_alternatives, limits, on_progress: as in `counterpoint.trace.record`.
        unguided: whether to write the text without guidance too, to stand beside it.
        options: see `RequestOptions`, with n = 1.

    Raises:
        UsageError: an argument is out of its range.
    """
    model = as_model(model)
    traced = record(model, prompt, num_alternatives=num_alternatives, limits=limits, on_progress=on_progress, **options)
    without = None
    if unguided:
        without = record_unguided(model, prompt, limits=limits, on_progress=on_progress, **options)
    return TraceReport(traced, without)


def page_data(trace: Trace) -> dict[str, Any]:
    """What the page's script shows: the numbers of the JSON Lines, each token's label once."""
    return {
        "names": ["conditional", *(b.name for b in trace.branches), "guided"],
        "guidance": list(GUIDANCE),
        "labels": {str(token_id): label(text) for token_id, text in trace.labels.items()},
        "steps": [_fields(step) for step in trace.steps],
    }


def _fields(step: Step) -> list[Any]:
    return [
        step.token_id,
        GUIDANCE.index(step.guidance),
        int(step.artefact),
        step.entropy,
        step.shift,
        list(step.divergence),
        step.push if math.isfinite(step.push) else None,
        [_seen(seen) for seen in (step.cond, *step.branches, step.guided)],
    ]


def _seen(seen: Seen) -> list[Any]:
    flat = [value for pair in seen.top for value in pair]
    return [seen.logprob if math.isfinite(seen.logprob) else None, seen.rank, flat]
