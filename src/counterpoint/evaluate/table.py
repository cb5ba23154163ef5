"""What a run of the grid looks like to a person."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from counterpoint.errors import NoEffectWarning


def print_table(record: dict[str, Any], out: TextIO) -> None:
    """The rows of `counterpoint.evaluate.grid.run_grid` as a table, then what they were made with."""
    console = Console(file=out, width=None if out.isatty() else 140)
    table = Table("task", "metric", "guide", "value", "95% interval", "against the first", "p", "P(best)", "documents")
    for row in record["rows"]:
        gain = row["gain"]
        table.add_row(
            row["task"],
            row["metric"],
            row["guide"],
            number(row["value"]),
            f"{number(row['low'])} to {number(row['high'])}",
            "" if gain is None else f"{gain['value']:+.4g} ({number(gain['low'])} to {number(gain['high'])})",
            "" if gain is None else f"{gain['p']:.2g}",
            "" if row["standing"] is None else f"{row['standing']['prob_best']:.3f}",
            f"{row['num_docs']}" + (f", {row['num_ruled_out']} with -inf" if row["num_ruled_out"] else ""),
        )
    console.print(table)
    if "race" in record:
        went = record["race"]
        reached = "is the best" if went["prob_best"] >= went["until"] else "leads, with all documents answered,"
        believed = went["posterior"]
        how = "" if believed is None else f"; P(best) by the {believed['method']}"
        if believed is not None and believed["r_hat"] is not None:
            how += f" (r-hat {believed['r_hat']:.3f}, effective sample size {believed['ess']:.0f})"
        console.print(
            f"{went['best']} {reached} in {went['metric']} with probability {went['prob_best']:.3f}, after "
            f"{went['answers']} of {went['grid']} answers{how}",
            highlight=False,
        )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    console.print(
        f"{record['model']} ({record['parameters']:,} parameters, {record['dtype']}), branch: {record['branch']}, "
        f"seed {record['seed']}; {record['computed']} answers computed, {record['reused']} reused; {versions}",
        highlight=False,
    )


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def plain(value: Any) -> Any:
    """The same with None for numbers that JSON can't write."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The harness and its data sets without their chatter; what the package warns of is still told."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", NoEffectWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)
