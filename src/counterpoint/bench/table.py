"""Measured lines as a table for a person, as JSON, and as a chart."""

from __future__ import annotations

from html import escape
from typing import Any

from counterpoint.bench.measure import Line


def as_markdown(lines: list[Line]) -> str:
    """A table: measure, value, the range of the rounds, aim, reached."""
    out = ["| measure | value | rounds | aim |", "|---|---|---|---|"]
    for line in lines:
        rounds = "" if line.low is None else f"{line.low:.2f} to {line.high:.2f}"
        aim = (
            ""
            if line.aim is None
            else f"at most {line.aim:g}: {'reached' if line.value <= line.aim else 'NOT reached'}"
        )
        out.append(f"| {line.name} | {_number(line.value)} {line.unit} | {rounds} | {aim} |")
    return "\n".join(out)


def as_json(lines: list[Line]) -> list[dict[str, Any]]:
    """The lines as plain values."""
    return [{name: getattr(line, name) for name in Line.__slots__} for line in lines]


def as_svg(bars: list[tuple[str, float]], *, unit: str) -> str:
    """A bar for each way, longest first to last as given."""
    most, height = max(value for _, value in bars), 26 * len(bars) + 10
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height}" font-family="sans-serif">'
            "<style>text { font-size: 13px }</style>"
        )
    ]
    for at, (name, value) in enumerate(bars):
        top, width = 26 * at + 5, 320 * value / most
        colour = "#2a6f97" if "ours" in name else "#b0b7bf"
        parts.append(f'<text x="290" y="{top + 15}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="300" y="{top}" width="{width:.1f}" height="20" fill="{colour}"/>')
        parts.append(f'<text x="{306 + width:.1f}" y="{top + 15}">{_number(value)} {escape(unit)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
