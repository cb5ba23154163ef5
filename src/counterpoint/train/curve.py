"""The loss curve as a table and as a picture."""

import csv
import io
from pathlib import Path

from counterpoint.train.checkpoint import replace_file

COLUMNS = ("step", "tokens", "seconds", "train_nats", "validation")


def write_table(rows: list[dict], path: Path) -> None:
    """rows as CSV: step, tokens, seconds, train loss (nats a token), then bits a byte for each held-out file."""
    names = sorted({name for row in rows for name in row["validation"]})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS[:4], *(f"bits_per_byte_{n}" for n in names)])
    for row in rows:
        measured = (row["validation"].get(n) for n in names)
        writer.writerow(
            [
                row["step"],
                row["tokens"],
                f"{row['seconds']:.0f}",
                f"{row['train_nats']:.4f}",
                *("" if m is None else f"{m:.4f}" for m in measured),
            ]
        )
    replace_file(path, buffer.getvalue().encode())


def draw(rows: list[dict], path: Path) -> bool:
    """The curve as a PNG; False (and no picture) where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    millions = [row["tokens"] / 1e6 for row in rows]
    left.plot(millions, [row["train_nats"] for row in rows], color="#4063d8")
    left.set(xlabel="million tokens", ylabel="nats per token", title="training")
    for name in sorted({name for row in rows for name in row["validation"]}):
        points = [(row["tokens"] / 1e6, row["validation"][name]) for row in rows if name in row["validation"]]
        right.plot(*zip(*points), label=name)
    right.set(xlabel="million tokens", ylabel="bits per byte", title="held out")
    if right.lines:
        right.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    replace_file(path, buffer.getvalue())
    return True
