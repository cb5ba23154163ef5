"""A grid of scales, spaces and plausibilities from one pair of prompts, run as one batch."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from counterpoint.contexts import BranchedPrompt
from counterpoint.engine import Options, Progress, Request, RequestOptions, prepare
from counterpoint.engine.generate import Prompt
from counterpoint.errors import GuideError, NoEffectWarning, warn
from counterpoint.guide import Branch, Guide
from counterpoint.models.model import Model
from counterpoint.report.metrics import Metrics, measure
from counterpoint.trace import ArtefactLimits, Trace, record_all
from counterpoint.trace.record import LIMITS

MAX_CELLS = 256
_NEVER = 2**31  # a first guided token that no text reaches


@dataclass(frozen=True, slots=True)
class Cell:
    """One guide of a comparison, the traces of its samples, and what they amount to."""

    guide: Guide
    traces: tuple[Trace, ...]
    metrics: Metrics


def run_grid(
    model: Model,
    prompt: Prompt,
    *,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    scales: Sequence[float],
    spaces: Sequence[str],
    plausibilities: Sequence[float],
    limits: ArtefactLimits = LIMITS,
    max_rows: int = 256,
    seed: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[Options],
) -> tuple[Cell, ...]:
    """The cells, scale by scale, in each by space and plausibility. Equal requests run once.

    Raises:
        UsageError: an axis is empty, holds a value twice or one out of its range, or the grid is too large.
    """
    if negative is None and branches is None and not isinstance(prompt, BranchedPrompt):
        raise GuideError("a comparison needs a negative; without one every scale is the same text")
    guides = axes(scales, spaces, plausibilities)
    given: RequestOptions = {**options, "seed": seed, "branches": branches, "negative": negative}
    distinct: dict[Guide, Request] = {}
    for guide in guides:
        if _of(guide) not in distinct:
            distinct[_of(guide)] = _request(model, prompt, _of(guide), given)
    verdicts = [request.no_effect(model) for guide, request in distinct.items() if guide.scale != 1]
    if verdicts and all(verdicts):
        warn(NoEffectWarning(f"guidance changes nothing: {verdicts[0]}", verdicts[0].field if verdicts[0] else None))
    with warnings.catch_warnings():  # at scale 1 nothing is to change
        warnings.simplefilter("ignore", NoEffectWarning)
        traced = record_all(model, list(distinct.values()), limits=limits, max_rows=max_rows, on_progress=on_progress)
    cells = {guide: Cell(guide, tuple(traces), measure(traces)) for guide, traces in zip(distinct, traced, strict=True)}
    return tuple(dataclasses.replace(cells[_of(guide)], guide=guide) for guide in guides)


def axes(scales: Sequence[float], spaces: Sequence[str], plausibilities: Sequence[float]) -> list[Guide]:
    """The guides of a grid in the order of its cells. Raises as `run_grid`."""
    for name, values in (("scales", scales), ("spaces", spaces), ("plausibilities", plausibilities)):
        if not values or len(set(values)) < len(values):
            raise GuideError(f"{name} is {list(values)}; give at least one value, and none of them twice")
    guides = [Guide(scale=s, space=p, plausibility=a) for s in scales for p in spaces for a in plausibilities]
    if len(guides) > MAX_CELLS:
        raise GuideError(f"the grid has {len(guides)} cells; give at most {MAX_CELLS}")
    return guides


def _of(guide: Guide) -> Guide:
    """The guide that a cell's request is run with: at scale 1 the spaces are one and the same."""
    return dataclasses.replace(guide, space="log") if guide.scale == 1 else guide


def _request(model: Model, prompt: Prompt, guide: Guide, options: RequestOptions) -> Request:
    if guide.scale != 1:
        return prepare(model, prompt, guide=guide, **options)
    # The other branches are still read, for the contrast: guidance that never begins is no guidance.
    request = prepare(model, prompt, guide=Guide(scale=2.0, start=_NEVER), **options)
    if not guide.plausibility:
        return request
    return dataclasses.replace(request, branches=(), guide=guide)
