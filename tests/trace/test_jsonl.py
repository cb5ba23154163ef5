import json
import math

import pytest

import counterpoint as cp
from counterpoint.errors import UsageError
from counterpoint.trace import jsonl


@pytest.fixture(scope="module")
def trace(make_trace):
    return make_trace("Hé 👩 <b>\x1b \u202e\u2028", guide=cp.Guide(scale=3.0, space="prob", plausibility=0.3))


@pytest.fixture(scope="module")
def written(trace):
    return "".join(f"{line}\n" for line in jsonl.lines(trace)).encode()


def test_reads_back_what_it_wrote(trace, tmp_path):
    path = tmp_path / "trace.jsonl"
    cp.trace.write(trace, path)
    assert cp.trace.read(path) == trace
    assert any(step.guided.logprob == -math.inf for step in trace.steps), "no number of this trace tests infinity"


def test_is_json_lines_with_a_version(written, trace):
    head, *steps, end = [json.loads(line) for line in written.decode().split("\n")[:-1]]
    assert (head["format"], head["version"], head["guide"]["scale"]) == ("counterpoint-trace", 1, 3.0)
    assert len(steps) == end["end"] == len(trace.steps)
    assert "".join(step["text"] for step in steps) == end["text"] == trace.text


def test_logit_bias_of_minus_infinity_is_written(model, tmp_path):
    trace = cp.trace.record(model, "Hello", max_tokens=2, temperature=0, logit_bias={5: -math.inf, 6: 1.0})
    cp.trace.write(trace, tmp_path / "t")
    assert cp.trace.read(tmp_path / "t").sampling["logit_bias"] == {"5": None, "6": 1.0}


def edited(content, number, **changes):
    lines = content.split(b"\n")
    record = json.loads(lines[number - 1]) | changes
    lines[number - 1] = json.dumps({k: v for k, v in record.items() if v is not ...}).encode()
    return b"\n".join(lines)


BROKEN = {
    "empty": (lambda c: b"", "'t' is not a trace; its first line is not the header"),
    "binary": (lambda c: b"\x80\x00\xff\n\n", "'t' is not a trace"),
    "other json": (lambda c: b'{"a": 1}\n', "'t' is not a trace"),
    "a list": (lambda c: b"[1, 2]\n", "'t' is not a trace"),
    "deep": (lambda c: b"[" * 100_000, "'t' is not a trace"),
    "version": (
        lambda c: edited(c, 1, version=2),
        "'t' is a trace of version 2 and this library reads version 1; trace",
    ),
    "no version": (lambda c: edited(c, 1, version=...), "'t' is a trace of version None"),
    "header only": (lambda c: c.split(b"\n")[0], "the trace 't' is truncated: it breaks off after 0 whole steps"),
    "no last line": (lambda c: b"\n".join(c.split(b"\n")[:-2]), "is truncated: it breaks off after"),
    "cut in a line": (lambda c: c[: len(c) // 2], "is truncated: it breaks off after"),
    "cut in the last": (lambda c: c[:-9], "is truncated: it breaks off after"),
    "a step missing": (
        lambda c: b"\n".join(c.split(b"\n")[:2] + c.split(b"\n")[3:]),
        "line 3: it is step 2 where step 1",
    ),
    "garbled": (lambda c: c.replace(b'{"step":1', b'{"ste\xff:1', 1), "is damaged at line 3: it is not a JSON object"),
    "no field": (lambda c: edited(c, 2, entropy=...), "is damaged at line 2: it lacks 'entropy'"),
    "no number": (lambda c: edited(c, 2, entropy="high"), "line 2: entropy is 'high' and not a finite number"),
    "infinite": (lambda c: edited(c, 2, entropy=math.inf), "line 2: entropy is inf and not a finite number"),
    "huge": (lambda c: edited(c, 2, entropy=10**400), "damaged at line 2"),
    "no text": (lambda c: edited(c, 2, text=7), "line 2: text is 7 and not a text"),
    "no list": (lambda c: edited(c, 2, divergence=7), "damaged at line 2"),
    "top": (lambda c: edited(c, 2, cond={"logprob": -1, "rank": 1, "top": [[1, 2, 3]]}), "damaged at line 2: "),
    "guidance": (lambda c: edited(c, 2, guidance="odd"), "line 2: guidance is 'odd', which is none of applied"),
    "guide": (lambda c: edited(c, 1, guide={"scal": 3}), "damaged at line 1: unknown guide field 'scal'"),
    "more": (lambda c: c + b"{}\n", "there is more after the last line"),
    "count": (lambda c: edited(c, -1 + len(c.split(b"\n")), end=3), "it announces 3 steps after"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_one_clear_line(written, case):
    change, message = BROKEN[case]
    with pytest.raises(UsageError) as caught:
        jsonl.parse(change(written), "'t'")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_any_cut_and_any_flipped_byte_is_a_clear_error_or_the_trace(written):
    for at in range(0, len(written) - 1, 37):
        with pytest.raises(UsageError):
            jsonl.parse(written[:at], "'t'")
        flipped = written[:at] + bytes([written[at] ^ 0x15]) + written[at + 1 :]
        try:
            jsonl.parse(flipped, "'t'")
        except UsageError as error:
            assert "\n" not in str(error)


def test_files_that_cannot_be_used(trace, tmp_path):
    with pytest.raises(UsageError, match="can't be read: No such file or directory"):
        cp.trace.read(tmp_path / "none")
    with pytest.raises(UsageError, match="can't be read: Is a directory"):
        cp.trace.read(tmp_path)
    with pytest.raises(UsageError, match="can't be written to .*: No such file or directory"):
        cp.trace.write(trace, tmp_path / "none" / "t")
