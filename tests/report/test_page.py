import json
import math
import re

import pytest

from counterpoint.errors import UsageError
from counterpoint.report import TraceReport, compare
from counterpoint.trace import jsonl
from counterpoint.trace.record import GUIDANCE

HOSTILE = "</script><script>window.ran=1</script><img src=x onerror=window.ran=1>{{7*7}}{% raw %}\u202e👩‍🚀é\x00&lt;"


def page_data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_numbers_are_those_of_the_json_lines(make_trace):
    trace = make_trace("Once upon a time, é 👩")
    data = page_data(TraceReport(trace).html())
    lines = [json.loads(line) for line in jsonl.lines(trace)][1:-1]
    assert len(data["steps"]) == len(lines) == len(trace.steps)
    for (token_id, state, artefact, entropy, shift, divergence, push, seen), line in zip(data["steps"], lines):
        assert push == pytest.approx(line["guided"]["logprob"] - line["cond"]["logprob"], abs=1e-6)
        assert (token_id, GUIDANCE[state], bool(artefact)) == (line["token_id"], line["guidance"], line["artefact"])
        assert (entropy, shift, divergence) == (line["entropy"], line["shift"], line["divergence"])
        for (logprob, rank, top), fields in zip(seen, (line["cond"], *line["branches"], line["guided"]), strict=True):
            assert (logprob, rank) == (fields["logprob"], fields["rank"])
            assert [top[i : i + 2] for i in range(0, len(top), 2)] == [[i, p] for i, _, p in fields["top"]]


def test_hostile_text_is_escaped_everywhere(model, make_trace):
    page = TraceReport(make_trace(HOSTILE, negative=HOSTILE)).html()
    assert page.count("<script") == 2 and "<img" not in page and "\u202e" not in page and "\x00" not in page
    options = {"negative": "no " + HOSTILE, "max_tokens": 3, "temperature": 0, "scales": [2, 3]}
    page = compare(model, HOSTILE, **options).html()
    assert "<script" not in page and "<img" not in page and "\u202e" not in page


def test_page_needs_nothing_else(make_trace):
    page = TraceReport(make_trace("Once upon a time")).html()
    assert not re.search(r"(src|href)=[\"'](?!#|data:,)|@import|url\(|https?:", page)


def test_page_of_a_trace_without_steps_or_tokenizer(make_trace, model):
    import dataclasses

    trace = dataclasses.replace(make_trace("Once"), steps=(), text=None, prompt=None)
    assert "Why each token was chosen" in TraceReport(trace).html()


def test_ruled_out_tokens_are_drawn_and_written(model):
    import counterpoint as cp

    trace = cp.trace.record(
        model,
        "A happy girl sang.",
        negative="A sad dog.",
        guide=cp.Guide(scale=3.0, plausibility=0.9),
        max_tokens=9,
        seed=0,
    )
    data = page_data(TraceReport(trace).html())
    assert all(math.isfinite(value) for step in data["steps"] for _, _, top in step[7] for value in top)


def test_frame_in_a_notebook_holds_the_page(make_trace):
    frame = TraceReport(make_trace('a "quoted" <b>'))._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;') and 'sandbox="allow-scripts"' in frame
    assert frame.count("<") == 2


def test_page_that_cannot_be_written(make_trace, tmp_path):
    with pytest.raises(UsageError, match="the page can't be written to .*: No such file or directory"):
        TraceReport(make_trace("a")).save(tmp_path / "none" / "page.html")
