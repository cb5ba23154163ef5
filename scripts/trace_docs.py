"""Write docs/trace-example.md and its pictures: a real comparison and a real trace of SmolLM2.

    python scripts/trace_docs.py [--tokens 40] [--samples 1] [--temperature 0] [--seed 0]

Every pair of prompts below is compared; the one whose log space shows most artefacts at the highest scale is shown, and
the table of all pairs beside it. The same weights and seed give the same page. The pictures need Chromium and
playwright; without them (--no-pictures) only the page is written.
"""

from __future__ import annotations

import argparse
import io
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import transformers
from rich.console import Console, RenderableType

import counterpoint as cp
from counterpoint import contexts
from counterpoint.report import Comparison, TraceReport, compare
from counterpoint.report.compare import series_name
from counterpoint.report.grid import Cell
from counterpoint.report.terminal import coloured, metrics_table

DOCS = Path(__file__).parent.parent / "docs"
PAIRS = [  # a system message, another one, a question
    ("You are polite.", "You are rude.", "How are you doing?"),
    ("You are a pirate. Talk like a pirate.", "You are a business consultant.", "What should I have for breakfast?"),
    ("Answer in one short sentence.", "Answer at great length.", "Why is the sky blue?"),
    ("You are very sad.", "You are very happy.", "How will my day be?"),
]
SCALES, SPACES, PLAUSIBILITIES = (1.0, 1.5, 3.0, 5.0, 10.0), ("log", "prob"), (0.0, 0.1)
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    model = cp.load("smollm2")
    pairs = [prompts(model, *pair) for pair in PAIRS]
    grid = {"scales": SCALES, "spaces": SPACES, "plausibilities": PLAUSIBILITIES}
    common = {
        "max_tokens": options.tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "n": options.samples,
    }
    compared = [compare(model, prompt, negative=negative, **grid, **common) for prompt, negative in pairs]
    best = max(range(len(pairs)), key=lambda i: artefacts(compared[i], "log", 0.0))
    samples = cell(compared[best], "log", 0.0).traces
    traced = TraceReport(max(samples, key=lambda trace: len(trace.artefacts)))
    (DOCS / "trace-example.md").write_text(page(compared, best, traced, options), encoding="utf-8")
    if options.pictures:
        pictures(traced, compared[best])


def prompts(model: cp.Model, system: str, negative: str, question: str) -> tuple[str, str]:
    """The question under each system message, as the model's template writes it."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    chat = contexts.chat(model, messages, negative=negative)
    return chat.prompt.text, chat.branches[0].context.text


def cell(comparison: Comparison, space: str, plausibility: float, scale: float = SCALES[-1]) -> Cell:
    """The cell of a guide."""
    guide = cp.Guide(scale=scale, space=space, plausibility=plausibility)
    return next(cell for cell in comparison.cells if cell.guide == guide)


def artefacts(comparison: Comparison, space: str, plausibility: float, scale: float = SCALES[-1]) -> int:
    """Artefacts of a cell's samples together."""
    return cell(comparison, space, plausibility, scale).metrics.num_artefacts


def page(compared: list[Comparison], best: int, traced: TraceReport, options: argparse.Namespace) -> str:
    """The generated page as Markdown."""
    system, negative, question = PAIRS[best]
    high = f"{SCALES[-1]:g}"
    columns = (
        ("log", 0.0, 1.0),
        ("log", 0.0, 5.0),
        *((space, a, SCALES[-1]) for space in SPACES for a in PLAUSIBILITIES),
    )
    rows = "\n".join(
        f"| {s} | {n} | {q} | " + " | ".join(str(artefacts(c, *column)) for column in columns) + " |"
        for (s, n, q), c in zip(PAIRS, compared, strict=True)
    )
    here = compared[best]
    log, kept, prob = artefacts(here, "log", 0.0), artefacts(here, "log", 0.1), artefacts(here, "prob", 0.0)
    if log > max(kept, prob):
        finding = (
            f"The pair below has most of them: {log} token{'s' if log > 1 else ''} at scale {high} in log space, {prob} in prob space, and "
            f"{kept} in log space with plausibility 0.1; unguided {artefacts(here, 'log', 0.0, 1.0)}."
        )
    else:
        finding = f"Log space at scale {high} shows no more artefacts than prob space or plausibility with this model."
    limits = traced.trace.limits
    marked = "\n".join(
        f"- step {s.index}, `{traced.trace.labels[s.token_id]!r}`: probability {s.cond.prob:.2g} and rank {s.cond.rank} "
        f"in the conditional branch, {s.branches[0].prob:.2g} and {s.branches[0].rank} in the negative, "
        f"{s.guided.prob:.2g} and {s.guided.rank} after guidance"
        for s in traced.trace.artefacts[:8]
    )
    texts = "\n".join(
        f"- {series_name(space, a)}: {coloured(cell(here, space, a).traces[0]).plain!r}" for space, a in here.series
    )
    command = (
        f"python scripts/trace_docs.py --tokens {options.tokens} --samples {options.samples} "
        f"--temperature {options.temperature:g} --seed {options.seed}"
    )
    return f"""# A trace and a comparison of SmolLM2

Generated by `{command}` with Python {platform.python_version()}, torch {version("torch")}, transformers {version("transformers")}: {options.samples} sample{"s" if options.samples > 1 else ""} of {options.tokens} tokens for each cell, {f"at temperature {options.temperature:g}" if options.temperature else "greedy"}. An artefact is a chosen token beyond the conditional branch's best {limits.rank} and below {limits.prob:g} there.

Artefacts among the at most {options.samples * options.tokens} tokens of a cell, unguided, at scale 5, and at scale {high}:

| system message | negative | question | unguided | 5, log | {" | ".join(f"{high}, {series_name(space, a)}" for space, a, _ in columns[2:])} |
|---|---|---|---|---|---|---|---|---|
{rows}

{finding}

```text
{terminal(metrics_table(here.cells, series_name), 150)}
```

The first texts at scale {high}, artefacts between « and »:

{texts}

![The comparison as a page](images/compare-light.png)

## Why each token was chosen

{system!r} against {negative!r}, {question!r}, log space, scale {high}, sample {traced.trace.sample}. {"Artefacts:" if marked else "No token is an artefact."}

{marked}

![The trace as a page](images/trace-light.png)

![The same, dark](images/trace-dark.png)

```text
{terminal(traced, 170)}
```
"""


def terminal(report: RenderableType, width: int) -> str:
    """What the command prints into a pipe."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(report)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def pictures(traced: TraceReport, compared: Comparison) -> None:
    """Screenshots of the pages: the trace at its first artefact, or at the step that guidance changed most."""
    from playwright.sync_api import sync_playwright

    steps = traced.trace.steps
    shown = (traced.trace.artefacts or (max(steps, key=lambda step: step.push),))[0]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        for name, report, schemes in (("trace", traced, ("light", "dark")), ("compare", compared, ("light", "dark"))):
            path = Path(folder) / f"{name}.html"
            report.save(path)
            for scheme in schemes:
                size = {"width": 1200, "height": 900}
                tab = browser.new_page(color_scheme=scheme, viewport=size)
                tab.goto(path.as_uri())
                if name == "trace":
                    tab.locator(f"#t{shown.index}").click()
                tab.mouse.move(0, 0)
                tab.screenshot(path=DOCS / "images" / f"{name}-{scheme}.png", full_page=name == "compare")
        browser.close()


if __name__ == "__main__":
    main()
