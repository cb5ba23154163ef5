import io

import pytest
from rich.console import Console

from counterpoint.report import TraceReport, compare
from counterpoint.trace import ArtefactLimits


def shown(report, width=100, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(report)
    return console.file.getvalue()


def test_plain_text_marks_artefacts_without_colour(make_trace):
    trace = make_trace("Once upon a time").with_limits(ArtefactLimits(rank=1, prob=1.0))
    assert trace.artefacts
    text = shown(TraceReport(trace))
    assert "«" in text and "▲" in text and "\x1b" not in text
    assert f"{len(trace.artefacts)} of {len(trace.steps)} tokens are artefacts" in text


def test_numbers_are_those_of_the_trace(make_trace):
    trace = make_trace("Once upon a time")
    rows = [line.split() for line in shown(TraceReport(trace), width=200).splitlines()]
    for step in trace.steps:
        row = next(r for r in rows if r and r[0] == str(step.index))
        assert f"({step.cond.rank})" in row and f"({step.guided.rank})" in row and f"{step.push:+.2f}" in row


def test_hostile_text_cannot_drive_the_terminal(make_trace):
    text = shown(TraceReport(make_trace("a\x1b[2J\x07[bold]b[/bold]\x9b31m\u202ec\r")), force_terminal=False)
    assert not any(ord(char) < 32 and char != "\n" for char in text)
    assert not any(0x80 <= ord(char) < 0xA0 for char in text) and "\u202e" not in text
    text = text.replace("«", "").replace("»", "")
    assert "[bold]b[/bold]" in text and "␛[2J␇" in text


def test_long_trace_shows_its_notable_steps(make_trace):
    trace = make_trace("Once upon a time " * 40)
    text = shown(TraceReport(trace))
    assert f"of {len(trace.steps)} steps: artefacts, then those that guidance changed most" in text
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("width", [72, 160])
def test_comparison(model, width):
    options = {"negative": "A sad dog.", "max_tokens": 6, "temperature": 0}
    compared = compare(model, "A happy girl sang.", scales=[1, 5], **options)
    text = shown(compared, width=width)
    assert text.count("artefacts") >= 4 and "contrast" in text
