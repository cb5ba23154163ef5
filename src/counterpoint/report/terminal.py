"""Traces and comparisons in a terminal, through rich. No colour carries a meaning alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from counterpoint.report.grid import Cell
from counterpoint.report.page import number, prob
from counterpoint.report.shades import shade
from counterpoint.report.visible import label, visible
from counterpoint.trace import Seen, Step, Trace

Palette = dict[int | str, str]
ARTEFACT = "artefact"
#: from 256 colours on; fewer can't tell shades apart, so there a level is a kind of emphasis
RICH: Palette = {
    3: "black on #f0a35e", 2: "black on #f8c993", 1: "black on #fde8cf", 0: "",
    -1: "black on #d6e6f5", -2: "black on #a5cbeb", -3: "black on #6aa9dc", ARTEFACT: "bold white on #8f1d5c",
}  # fmt: skip
STANDARD: Palette = {
    3: "bold black on yellow", 2: "black on yellow", 1: "yellow", 0: "",
    -1: "cyan", -2: "black on cyan", -3: "bold black on cyan", ARTEFACT: "bold white on magenta",
}  # fmt: skip


def palette_of(console: Console) -> Palette:
    """The colours that a console can show."""
    return STANDARD if console.color_system in ("standard", "windows") else RICH


LEGEND = (
    "push: guidance made the token more (orange) or less (blue) probable; ≠ and underlined: it changed the best token; "
    "▲ and «»: artefact"
)


def trace_view(trace: Trace, shown: Sequence[Step], width: int, palette: Palette = RICH) -> Iterator[RenderableType]:
    """The text with its colours, then a table of the steps in `shown`."""
    yield coloured(trace, palette)
    yield Text(f"[{LEGEND}]", style="dim")
    if shown:
        yield steps_table(trace, shown, wide=width >= 120, palette=palette)
    if len(shown) < len(trace.steps):
        yield Text(f"{len(shown)} of {len(trace.steps)} steps: artefacts, then those that guidance changed most", "dim")
    limits = trace.limits
    yield Text(
        f"{len(trace.artefacts)} of {len(trace.steps)} tokens are artefacts: beyond the conditional branch's best "
        f"{limits.rank} and below {limits.prob:g} there"
    )


def coloured(trace: Trace, palette: Palette = RICH) -> Text:
    """The text of a trace, each token in the colour of what guidance did to it."""
    text, in_artefact = Text(), False
    for step in trace.steps:
        shown = visible(step.text).replace("↵", "↵\n")
        style = palette[shade(step)]
        if step.is_changed:
            style += " underline"
        if step.artefact != in_artefact:
            text.append("«" if step.artefact else "»", palette[ARTEFACT])
            in_artefact = step.artefact
        text.append(shown, palette[ARTEFACT] if step.artefact else style)
    if in_artefact:
        text.append("»", palette[ARTEFACT])
    return text


def unguided_view(trace: Trace) -> RenderableType:
    """What the request writes without guidance."""
    return Group(Text("without guidance:", style="bold"), coloured(trace, dict.fromkeys(RICH, "")))


def steps_table(trace: Trace, steps: Sequence[Step], *, wide: bool, palette: Palette = RICH) -> Table:
    """One row for each step; with the alternatives where there is room."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("step", justify="right")
    table.add_column("token", overflow="fold", max_width=24)
    names = ["conditional", *(visible(b.name) for b in trace.branches), "guided"]
    for name in names:
        table.add_column(f"{name}\nprob  (rank)", justify="right", no_wrap=True)
    table.add_column("push\nnats", justify="right", no_wrap=True)
    table.add_column("entr.\nnats", justify="right", no_wrap=True)
    if wide:
        table.add_column("conditional's best", overflow="fold", ratio=1)
        table.add_column("guided's best", overflow="fold", ratio=1)
    table.add_column("", no_wrap=True)
    for step in steps:
        # A step whose branches were not read has fewer columns of numbers.
        others = [*map(_chance, step.branches), *["–"] * (len(trace.branches) - len(step.branches))]
        row = [
            str(step.index),
            Text(label(trace.labels[step.token_id]), palette[ARTEFACT] if step.artefact else palette[shade(step)]),
            _chance(step.cond), *others, _chance(step.guided), f"{step.push:+.2f}", number(step.entropy),
        ]  # fmt: skip
        if wide:
            row += [_best(trace, step.cond), _best(trace, step.guided)]
        table.add_row(*row, _mark(step, wide))
    return table


def text_grid(
    cells: Sequence[Cell],
    series: Sequence[tuple[str, float]],
    name: Callable[[str, float], str],
    palette: Palette = RICH,
) -> RenderableType:
    """The first text of every cell: a row for each scale, a column for each space and plausibility."""
    table = Table(show_lines=True, header_style="bold")
    table.add_column("scale", justify="right")
    for one in series:
        table.add_column(name(*one), ratio=1, overflow="fold")
    rows: dict[float, list[RenderableType]] = {}
    for cell in cells:
        metrics = cell.metrics
        line = f"artefacts {metrics.num_artefacts}/{metrics.num_tokens}, mean logprob {number(metrics.mean_logprob)}"
        rows.setdefault(cell.guide.scale, []).append(Group(coloured(cell.traces[0], palette), Text(line, style="dim")))
    for scale, row in rows.items():
        table.add_row(f"{scale:g}", *row)
    return table


def metrics_table(cells: Sequence[Cell], name: Callable[[str, float], str]) -> Table:
    """The numbers of every cell."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for column in (
        "scale",
        "space",
        "tokens",
        "artefact\nrate",
        "distinct\n1",
        "\n2",
        "\n3",
        "mean\nlogprob",
        "contrast",
    ):
        table.add_column(column, justify="left" if column == "space" else "right")
    for cell in cells:
        m = cell.metrics
        table.add_row(
            f"{cell.guide.scale:g}", name(cell.guide.space, cell.guide.plausibility), str(m.num_tokens),
            f"{m.artefact_rate:.1%}", *(number(d) for d in m.distinct), number(m.mean_logprob), number(m.contrast),
        )  # fmt: skip
    return table


def _chance(seen: Seen) -> str:
    return f"{prob(seen.prob)} {f'({seen.rank})':>6}"


def _best(trace: Trace, seen: Seen) -> Text:
    parts = [f"{label(trace.labels[i])} {prob(Seen(logprob, 1, ()).prob)}" for i, logprob in seen.top[:3]]
    return Text("  ".join(parts))


def _mark(step: Step, wide: bool) -> Text:
    marks = ["▲ artefact" if wide else "▲"] if step.artefact else []
    marks += ["≠ changed" if wide else "≠"] if step.is_changed else []
    marks += [step.guidance] if step.guidance not in ("applied", "off") else []
    return Text(" ".join(marks))
