"""`counterpoint trace` and `counterpoint compare` as their users type them, right and wrong."""

import json

import pytest

import counterpoint as cp

PAIR = ["The old house", "--negative", "A happy day"]
SHORT = ["--max-tokens", "6", "--temperature", "0"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trace in a file."""
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    model = cp.load("bundled")
    options = {"negative": "A happy day", "guide": cp.Guide(scale=4), "max_tokens": 6, "temperature": 0.0}
    cp.trace.write(cp.trace.record(model, "The old house", **options), path)
    return path


def test_trace_writes_what_the_library_records(run, saved, tmp_path):
    page, lines = tmp_path / "out.html", tmp_path / "out.jsonl"
    status, out, err = run("trace", *PAIR, "--scale", 4, *SHORT, "--html", page, "--jsonl", lines)
    assert (status, err) == (0, "")
    trace = cp.trace.read(saved)
    assert cp.trace.read(lines) == trace
    assert page.read_text().startswith("<!doctype html>")
    # To a pipe it is plain, and holds every step.
    assert "\x1b" not in out and all(f"({step.cond.rank})" in out for step in trace.steps)


def test_trace_as_json(run, saved):
    status, out, err = run("trace", "-", *PAIR[1:], "--scale", 4, *SHORT, "--json", stdin=b"The old house")
    assert (status, err) == (0, "") and out.encode() == saved.read_bytes()


def test_saved_trace_with_other_limits(run, saved):
    status, out, err = run("trace", "--read", saved, "--artefact-rank", 1, "--artefact-prob", 1)
    trace = cp.trace.read(saved).with_limits(cp.trace.ArtefactLimits(1, 1.0))
    assert (status, err) == (0, "")
    assert (
        f"{len(trace.artefacts)} of 6 tokens are artefacts: beyond the conditional branch's best 1 and below 1" in out
    )


def test_comparison(run, tmp_path):
    grid = ["--scales", "1,4", "--spaces", "log,prob", "--plausibilities", "0, 0.2"]
    status, out, err = run("compare", *PAIR, *grid, *SHORT, "--json", "--html", tmp_path / "grid.html")
    assert (status, err) == (0, "")
    cells = json.loads(out)["cells"]
    assert [(c["scale"], c["space"], c["plausibility"]) for c in cells] == [
        (s, p, a) for s in (1, 4) for p in ("log", "prob") for a in (0, 0.2)
    ]
    done = cp.generate(cp.load("bundled"), "The old house", max_tokens=6, temperature=0)
    assert cells[0]["samples"][0]["token_ids"] == list(done.token_ids)
    assert (tmp_path / "grid.html").read_text().count('class="cell"') == 4  # equal texts are one
    status, out, err = run("compare", *PAIR, *grid, *SHORT)
    assert (status, err) == (0, "") and "contrast" in out and "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace"], "give a PROMPT"),
        (["trace", "x", "--read", __file__], "keep one of them"),
        (["trace", "--read", "none.jsonl"], "--read is 'none.jsonl', which can't be read: No such file"),
        (["trace", "--read", __file__], "is not a trace; its first line is not the header"),
        (["trace", "--read", __file__, "--scale", "3"], "--scale has no effect on a trace from a file"),
        (["trace", "x", "--scale", "high"], "--scale is 'high'; use a number"),
        (["trace", "x", "--artefact-rank", "0"], "--artefact-rank is 0; use a whole number, 1 or more"),
        (["trace", "x", "--alternatives", "0"], "--alternatives is 0; use a whole number, 1 or more"),
        (["trace", *PAIR, *SHORT, "--html", "/none/x.html"], "there is no folder '/none'"),
        (["compare"], "give a PROMPT"),
        (["compare", "x"], "give --negative"),
        (["compare", *PAIR, "--scales", "1,x"], "--scales is '1,x'; use numbers with commas between them"),
        (["compare", *PAIR, "--scales", ","], "--scales is empty; give at least one"),
        (["compare", *PAIR, "--scales", "3,3"], "none twice"),
        (["compare", *PAIR, "--spaces", "bits"], "space is 'bits'; use one of log, prob"),
        (["compare", *PAIR, "--plausibilities", "7"], "plausibility is 7.0; use a number from 0 to 1"),
        (["compare", *PAIR, "--artefact-prob", "2"], "--artefact-prob is 2; use a number from 0 to 1"),
    ],
)
def test_mistake_is_one_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1 and err.startswith("counterpoint: ")
