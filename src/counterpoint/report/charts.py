"""The geometry of the pages' charts; the templates draw it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from counterpoint.report.grid import Cell
from counterpoint.trace import Seen, Step, Trace

WIDTH, HEIGHT = 1000, 100  # of a strip, in its own units; the page stretches it
LEAST_EXPONENT = -8  # probabilities below 1e-8 are drawn at the edge


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a strip: its name, the number of its colour, and its path."""

    name: str
    colour: str
    path: str


@dataclass(frozen=True, slots=True)
class Strip:
    """A chart along the text. Ticks: (percent from the top, label)."""

    title: str
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A cell on the frontier's chart."""

    cell: Cell
    number: int
    series: int
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Frontier:
    """Cells by contrast and by mean log-probability. Ticks: (place, label); paths in units of the chart."""

    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    series_paths: tuple[tuple[int, str], ...]
    best_path: str


def strips(trace: Trace) -> tuple[Strip, ...]:
    """Probability of the chosen token, entropy, and divergence along the text."""
    steps = trace.steps
    names = [branch.name for branch in trace.branches]

    def branch(k: int, of: Callable[[Step], Sequence[float]]) -> list[float | None]:
        return [of(step)[k] if k < len(of(step)) else None for step in steps]

    def exponents(logprobs: Iterable[float | None]) -> list[float | None]:
        return [None if p is None else max(p / math.log(10), LEAST_EXPONENT) for p in logprobs]

    chances = [("conditional", "cond", exponents(step.cond.logprob for step in steps))]
    for k, name in enumerate(names):
        chances.append((name, f"b{k % 4}", exponents(branch(k, lambda s: [_logprob(seen) for seen in s.branches]))))
    chances.append(("guided", "guided", exponents(step.guided.logprob for step in steps)))
    least = math.floor(min((v for _, _, values in chances for v in values if v is not None), default=-1))
    apart = [("conditional and guided", "guided", [step.shift for step in steps])]
    apart += [(f"conditional and {n}", f"b{k % 4}", branch(k, lambda s: s.divergence)) for k, n in enumerate(names)]
    far = min(1.0, 1.05 * max([v for _, _, values in apart for v in values if v is not None] + [0.01]))
    most = 1.05 * max([step.entropy for step in steps] + [0.1])
    return (
        Strip(
            "probability of the chosen token",
            tuple((100 * e / least, _power(e)) for e in _few(range(0, least - 1, -1))),
            _lines(chances, 0, min(least, -1)),
        ),
        Strip("entropy of the conditional branch, nats", _ticks_down(most), _lines(
            [("conditional", "cond", [step.entropy for step in steps])], most, 0
        )),
        Strip("divergence, bits (0 is the same, 1 is apart)", _ticks_down(far), _lines(apart, far, 0)),
    )  # fmt: skip


def step_ticks(trace: Trace) -> tuple[tuple[float, int], ...]:
    """The x axis of the strips: (percent from the left, number of the step)."""
    count = len(trace.steps)
    if count < 2:
        return ((50.0, 0),) if count else ()
    ticks = [int(tick) for tick in _nice(0, count - 1, 6) if tick == int(tick)]
    return tuple((100 * (tick + 0.5) / count, tick) for tick in ticks)


def frontier(cells: Sequence[Cell], series: Sequence[tuple[str, float]]) -> Frontier | None:
    """The chart of a comparison, 600 by 360; None where fewer than two cells have both numbers."""
    shown = [
        (number, cell)
        for number, cell in enumerate(cells)
        if cell.metrics.contrast is not None and math.isfinite(cell.metrics.mean_logprob)
    ]
    if len(shown) < 2:
        return None
    x_axis = axis([cell.metrics.contrast for _, cell in shown], 70, 580)
    y_axis = axis([cell.metrics.mean_logprob for _, cell in shown], 310, 20)
    points = tuple(
        Point(
            cell,
            number,
            series.index((cell.guide.space, cell.guide.plausibility)),
            x_axis[0](cell.metrics.contrast),
            y_axis[0](cell.metrics.mean_logprob),
        )
        for number, cell in shown
    )
    best = sorted((p for p in points if not any(_beats(q, p) for q in points)), key=lambda p: p.x)
    paths = []
    for k in range(len(series)):
        own = sorted((p for p in points if p.series == k), key=lambda p: p.cell.guide.scale)
        paths.append((k, polyline([(p.x, p.y) for p in own])))
    return Frontier(points, x_axis[1], y_axis[1], tuple(paths), polyline([(p.x, p.y) for p in best]))


def _logprob(seen: Seen) -> float:
    return max(seen.logprob, -1e3)


def _lines(named: Iterable[tuple[str, str, Sequence[float | None]]], top: float, bottom: float) -> tuple[Line, ...]:
    return tuple(Line(name, colour, _path(values, top, bottom)) for name, colour, values in named)


def _path(values: Sequence[float | None], top: float, bottom: float) -> str:
    """A line through the middles of the steps, broken where there is no value."""
    wide, parts, drawing = WIDTH / len(values), [], False
    for i, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        y = HEIGHT * (top - value) / (top - bottom)
        parts.append(f"{'L' if drawing else 'M'}{_short((i + 0.5) * wide)} {_short(y)}")
        drawing = True
    return "".join(parts) or "M0 0"


def polyline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points) if points else "M0 0"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _power(exponent: int) -> str:
    return {0: "1", -1: "0.1", -2: "0.01"}.get(exponent, f"1e{exponent}".replace("-", "−"))


def _few(values: range) -> list[int]:
    return list(values[:: 2 if len(values) > 5 else 1])


def _ticks_down(most: float) -> tuple[tuple[float, str], ...]:
    ticks = _nice(0, most, 3)
    return tuple((100 - 100 * tick / most, f"{tick:g}") for tick in ticks)


def axis(values: Sequence[float], start: float, end: float) -> tuple[Callable[[float], float], tuple]:
    """From value to place, and ticks, with a little room at both ends."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1
    low, high = low - room, high + room

    def place(value: float) -> float:
        return start + (end - start) * (value - low) / (high - low)

    return place, tuple((place(t), f"{t:g}".replace("-", "−")) for t in _nice(low, high, 5))


def _nice(low: float, high: float, num: int) -> list[float]:
    """Round numbers from low to high, about `num` of them."""
    raw = (high - low) / num
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _beats(a: Point, b: Point) -> bool:
    """Whether a has at least as much of both as b, and more of one. y grows downwards."""
    return a.x >= b.x and a.y <= b.y and (a.x, a.y) != (b.x, b.y)
