"""A comparison to look at: texts of a grid of guides beside each other, and what they amount to."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from rich.console import Console, ConsoleOptions, RenderableType

from counterpoint.engine import Options, Progress
from counterpoint.engine.generate import Prompt
from counterpoint.engine.options import spelled_out
from counterpoint.guide import Branch
from counterpoint.models.loading import as_model
from counterpoint.models.model import Model
from counterpoint.report import page, terminal
from counterpoint.report.charts import frontier
from counterpoint.report.grid import Cell, run_grid
from counterpoint.report.shades import shade
from counterpoint.report.visible import label
from counterpoint.trace import ArtefactLimits, Step, Trace
from counterpoint.trace.record import LIMITS

FORMAT = "counterpoint-comparison"
VERSION = 1
SCALES = (1.0, 1.5, 3.0, 5.0)
SPACES = ("log", "prob")
PLAUSIBILITIES = (0.0,)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A grid of guides from one pair of prompts: as a page, in a terminal (`rich.print`), in a notebook, as JSON.

    Args:
        model: its name.
        prompt, negative: as texts.
        limits: what counts as an artefact.
        cells: scale by scale, in each by space and plausibility.
    """

    model: str
    prompt: str | None
    negative: str | None
    limits: ArtefactLimits
    cells: tuple[Cell, ...]

    @property
    def series(self) -> tuple[tuple[str, float], ...]:
        """The columns: (space, plausibility)."""
        return tuple(dict.fromkeys((cell.guide.space, cell.guide.plausibility) for cell in self.cells))

    @property
    def groups(self) -> tuple[tuple[int, tuple[Cell, ...]], ...]:
        """Cells of the same texts together: the number of the first, and all of them."""
        same: dict[Any, list[tuple[int, Cell]]] = {}
        for number, cell in enumerate(self.cells):
            texts = tuple(tuple(step.token_id for step in trace.steps) for trace in cell.traces)
            same.setdefault(texts, []).append((number, cell))
        return tuple((cells[0][0], tuple(cell for _, cell in cells)) for cells in same.values())

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "prompt": self.prompt,
            "negative": self.negative,
            "limits": dataclasses.asdict(self.limits),
            "cells": [
                {
                    "scale": cell.guide.scale,
                    "space": cell.guide.space,
                    "plausibility": cell.guide.plausibility,
                    "metrics": cell.metrics.to_dict(),
                    "samples": [
                        {
                            "text": trace.text,
                            "token_ids": [step.token_id for step in trace.steps],
                            "finish_reason": trace.finish_reason,
                            "artefacts": [
                                {
                                    "step": step.index,
                                    "label": trace.labels[step.token_id],
                                    "cond_prob": step.cond.prob,
                                    "cond_rank": step.cond.rank,
                                }
                                for step in trace.artefacts
                            ],
                        }
                        for trace in cell.traces
                    ],
                }
                for cell in self.cells
            ],
        }

    def html(self) -> str:
        """A page of its own: the texts, the numbers, and the frontier of contrast and likelihood."""
        return page.render(
            "compare",
            None,
            comparison=self,
            frontier=frontier(self.cells, self.series),
            shade=shade,
            names=[series_name(*s) for s in self.series],
            groups=self.groups,
            first={n: number for number, cells in self.groups for n, cell in enumerate(self.cells) if cell in cells},
            num_samples=len(self.cells[0].traces),
            series_name=series_name,
            tip=_tip,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file. Raises `UsageError` where that is not possible."""
        page.save(self.html(), path)

    def _repr_html_(self) -> str:
        return page.framed(self.html(), height=760)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield terminal.text_grid(self.cells, self.series, series_name, terminal.palette_of(console))
        yield terminal.metrics_table(self.cells, series_name)


@spelled_out(Options)
def compare(
    model: Model | str,
    prompt: Prompt,
    *,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    scales: Sequence[float] = SCALES,
    spaces: Sequence[str] = SPACES,
    plausibilities: Sequence[float] = PLAUSIBILITIES,
    limits: ArtefactLimits = LIMITS,
    seed: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[Options],
) -> Comparison:
    """Continue one prompt under every combination of scale, space and plausibility, as one batch.

    Args:
        model: what `counterpoint.load` gave, or a name for it.
        prompt: a text or token ids, or what a builder of `counterpoint.contexts` made of both prompt and branches.
        negative: what the scales push away from: a text, token ids or a context of `counterpoint.contexts`.
        branches: several contexts instead; one of them at least without a weight of its own, for the scales to act on.
        scales, spaces, plausibilities: the grid.
        limits: what counts as an artefact.
        on_progress: called at each token.
        seed: makes sampling repeatable; sample i of n uses seed + i; None is fresh entropy.
        options: see `Options`; with n, metrics are over n samples.

    Raises:
        UsageError: an axis is empty, holds a value twice, or a value is out of its range.
    """
    model = as_model(model)
    cells = run_grid(
        model,
        prompt,
        negative=negative,
        branches=branches,
        scales=scales,
        spaces=spaces,
        plausibilities=plausibilities,
        limits=limits,
        seed=seed,
        on_progress=on_progress,
        **options,
    )
    first = next((c.traces[0] for c in cells if c.traces[0].branches), cells[0].traces[0])
    return Comparison(
        model=model.name,
        prompt=first.prompt,
        negative="\n\n".join(branch.text or "" for branch in first.branches) if first.branches else None,
        limits=limits,
        cells=cells,
    )


def _tip(trace: Trace, step: Step) -> str:
    """What a token's tooltip says."""
    chances = [f"prompt {page.prob(step.cond.prob)} (rank {step.cond.rank})"]
    chances += [f"{b.name} {page.prob(seen.prob)}" for b, seen in zip(trace.branches, step.branches)]
    if step.guidance == "applied":
        chances.append(f"guided {page.prob(step.guided.prob)}")
    return f"{label(trace.labels[step.token_id])}: {', '.join(chances)}"


def series_name(space: str, plausibility: float) -> str:
    """What a column is called."""
    return f"{space}, plausibility {plausibility:g}" if plausibility else space
