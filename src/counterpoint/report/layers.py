"""A scan of layers as a picture."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from counterpoint.report.charts import axis, polyline
from counterpoint.report.page import render
from counterpoint.vectors.scan import LayerScan

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 620, 20, 250
#: what is drawn: attribute, its name, colours on light and dark paper, dashes
SERIES = (
    ("recovered", "moved towards the first texts", "#0072b2", "#56b4e9", "none"),
    ("told", "held-out pairs told apart", "#c24e00", "#ff9d4d", "6 3"),
    ("share", "of the differences along it", "#00795a", "#2fd1a2", "2 3"),
)
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#59636e}line{stroke:#8a949e}path{fill:none;stroke-width:2}"
    + "".join(f".s{k}{{stroke:{light};fill:{light}}}" for k, (_, _, light, _, _) in enumerate(SERIES))
    + "path.s0,path.s1,path.s2{fill:none}@media(prefers-color-scheme:dark){text{fill:#9aa6b4}"
    + "".join(f".s{k}{{stroke:{dark};fill:{dark}}}" for k, (_, _, _, dark, _) in enumerate(SERIES))
    + "path.s0,path.s1,path.s2{fill:none}}"
)


def layers_svg(scanned: Sequence[LayerScan]) -> str:
    """The picture: for each layer what its direction does, one line a measure."""
    place_x, x_ticks = axis([float(layer.layer) for layer in scanned], LEFT, RIGHT)
    values = [getattr(layer, name) for layer in scanned for name, *_ in SERIES]
    place_y, y_ticks = axis([0.0, 1.0, *(max(value, -1.0) for value in values)], BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="what each layer\'s direction does by itself"><style>{STYLE}</style>',
        f'<line x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}"/><line x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{BOTTOM}"/>',
    ]
    parts += [
        f'<text x="{x:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{name}</text>'
        for x, name in x_ticks
        if "." not in name and LEFT <= x <= RIGHT
    ]
    parts += [
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        for y, name in y_ticks
        if TOP <= y <= BOTTOM
    ]
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 32}" text-anchor="middle">layer</text>')
    for k, (attribute, name, _, _, dashes) in enumerate(SERIES):
        points = [(place_x(s.layer), place_y(max(getattr(s, attribute), -1.0))) for s in scanned]
        parts.append(f'<path class="s{k}" stroke-dasharray="{dashes}" d="{polyline(points)}"/>')
        for (x, y), layer in zip(points, scanned):
            told = f"layer {layer.layer}: {getattr(layer, attribute):.3f} {name}"
            parts.append(
                f'<circle class="s{k}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{html.escape(told)}</title></circle>'
            )
        x = LEFT + 190 * k
        parts.append(
            f'<line class="s{k}" stroke-width="2" stroke-dasharray="{dashes}" x1="{x}" y1="294" x2="{x + 18}" y2="294"/>'
        )
        parts.append(f'<text x="{x + 23}" y="298">{name}</text>')
    return "".join(parts) + "</svg>\n"


def layers_page(scanned: Sequence[LayerScan], about: Mapping[str, str]) -> str:
    """The picture with its numbers, as a page of its own.

    Args:
        about: facts to show: name to value.
    """
    return render("layers", None, about=about, picture=layers_svg(scanned), layers=scanned)
