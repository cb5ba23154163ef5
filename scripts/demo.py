"""What guidance does, on the bundled model: the same prompt and seed, unguided and guided, side by side."""

from __future__ import annotations

import argparse
import textwrap
import time

import transformers
from rich.console import Console
from rich.table import Table

import counterpoint as cp

CASES = [
    ("Genre: children's.\n\n", "Genre: horror.\n\n"),
    ("Genre: horror.\n\nThe door", "Genre: children's.\n\nThe door"),
    ("Sentiment: positive. Product remark.\n\n", "Sentiment: negative. Product remark.\n\n"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[6, 12], help="one row each")
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--max-tokens", type=int, default=50)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    started = time.perf_counter()
    model = cp.load("bundled")
    console = Console()
    for prompt, negative in CASES:
        guide = cp.Guide(scale=options.scale, space="prob")
        prompts = [prompt] * len(options.seeds)
        arguments = {"max_tokens": options.max_tokens, "temperature": 0.8, "seed": options.seeds}
        plain = cp.generate(model, prompts, **arguments)
        guided = cp.generate(model, prompts, negative=negative, guide=guide, **arguments)
        table = Table(
            title=f"prompt {prompt.strip()!r}   negative {negative.strip()!r}",
            title_justify="left",
            show_lines=True,
            expand=True,
        )
        table.add_column("unguided", ratio=1)
        table.add_column(f"guided, scale {options.scale:g}, prob space", ratio=1)
        for a, b in zip(plain, guided):
            table.add_row(_one_line(a.text), _one_line(b.text))
        console.print(table)
    console.print(f"{time.perf_counter() - started:.1f} s, model included. Now your own:")
    console.print(
        '  .venv/bin/counterpoint generate "PROMPT" --negative "NEGATIVE" --scale 3 --space prob', markup=False
    )


def _one_line(text: str) -> str:
    return textwrap.shorten(text, 1000)


if __name__ == "__main__":
    main()
