import json
import re

import pytest

import counterpoint as cp

GIVEN = ["--negative", "no", "--scale", 3, "--max-tokens", 24, "--ignore-eos"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, folder):
    """Good texts, and a watch so strict that it rings at once: fitted on one text over and over."""
    top = tmp_path_factory.mktemp("files")
    lines = [{"prompt": f"Say {n}", "text": f"the number {n} is what I say now", "negative": "no"} for n in range(8)]
    (top / "few.jsonl").write_text("\n".join(map(json.dumps, lines[:3])))
    (top / "good.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    model = cp.load(folder)
    cp.Watch.fit(model, [("Hello", "aaaaaaaa" * 3)] * 8, negative="no", guide=cp.Guide(scale=3), window=6).save(
        top / "strict.json"
    )
    return top


def test_fit_and_show(run, folder, files, tmp_path):
    out = tmp_path / "watch.json"
    made = ["watch", "fit", files / "good.jsonl", "--out", out, "--model", folder, "--window", 8, "--scale", 2]
    status, _, err = run(*made)
    assert status == 0 and "8 texts" in err, err
    model = cp.load(folder)
    good = [
        (cp.contexts.BranchedPrompt(f"Say {n}", (cp.Branch("no"),)), f"the number {n} is what I say now")
        for n in range(8)
    ]
    want = cp.Watch.fit(model, good, guide=cp.Guide(scale=2), window=8)
    assert cp.Watch.load(out).bound == want.bound
    assert "window: 8" in run("watch", "show", out)[1]
    assert json.loads(run("watch", "show", out, "--json")[1])["texts"] == 8


def test_alarms_are_told(run, folder, files):
    given = ["generate", "Hello", "--model", folder, *GIVEN, "--seed", 3, "--watch", files / "strict.json"]
    plain = run(*given[:-2])[1]
    status, out, err = run(*given)
    assert status == 0 and out == plain and re.search(r"alarm at token \d+, [\d.]+: tokens \d+ to \d+", err), err
    record = json.loads(run(*given, "--on-alarm", "stop", "--json")[1])
    assert record["finish_reason"] == "alarm" and plain.startswith(record["text"]) and len(record["alarms"]) == 1
    status, out, err = run(*given, "--on-alarm", "ease", "--max-eases", 2, "--json")
    record = json.loads(out)
    assert record["usage"]["eases"] == 2 and record["usage"]["discarded_tokens"] > 0
    model = cp.load(folder)
    watch = cp.Watch.load(files / "strict.json")
    want = cp.generate(
        model, "Hello", negative="no", guide=cp.Guide(scale=3), max_tokens=24, ignore_eos=True, seed=3, watch=watch,
        on_alarm="ease", max_eases=2,
    )  # fmt: skip
    assert record["token_ids"] == list(want.token_ids)


def test_in_a_job(run, folder, files, tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "Hello", "negative": "no"}) + "\n")
    job = ["batch", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--model", folder, "--quiet", *GIVEN[2:]]
    watched = [*job, "--watch", files / "strict.json", "--on-alarm", "ease"]
    assert run(*watched)[0] == 0
    answer = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert "eases" in json.dumps(answer)
    assert run(*job)[0] == 2  # other answers than those that are there


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["generate", "Hi", "--on-alarm", "stop"], "--on-alarm needs --watch"),
        (["generate", "Hi", "--watch", "GOOD"], "is no watch"),
        (["generate", "Hi", "--watch", "STRICT", "--on-alarm", "sing"], "use mark, stop or ease"),
        (["generate", "Hi", "--watch", "STRICT", "--max-eases", "2"], "needs --on-alarm ease"),
        (["generate", "Hi", "--watch", "STRICT", "--model", "bundled"], "of another model"),
        (["generate", "Hi", "--watch", "STRICT", "--on-alarm", "ease"], "nothing guides the text"),
        (["watch", "fit", "STRICT", "--out", "x.json"], 'line 1 is .*; write {"prompt": TEXT, "text": TEXT}'),
        (["watch", "fit", "FEW", "--out", "x.json"], "3 good texts are given; a watch needs 5"),
        (["watch", "fit", "GOOD", "--out", "/proc/x.json"], "--out is '/proc/x.json', which can't be written"),
        (["watch", "fit", "GOOD", "--out", "x.json", "--method", "svm"], "--method is 'svm'"),
        (["watch", "fit", "GOOD", "--out", "x.json", "--features", "mood"], "--features is 'mood'"),
        (["watch", "fit", "GOOD", "--out", "x.json", "--negative-system", "none"], "needs --system"),
        (["watch", "fit", "GOOD", "--out", "x.json", "--window", "60"], "tokens and a window 60"),
        (["batch", "GOOD", "out", "--engine", "http://localhost:1", "--watch", "STRICT"], "--watch is for our own engine"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(mistake, files, arguments, message):
    mistake(
        arguments, message, {"GOOD": files / "good.jsonl", "STRICT": files / "strict.json", "FEW": files / "few.jsonl"}
    )
