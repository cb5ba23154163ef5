import json
import xml.etree.ElementTree as ET

import pytest
import torch

import counterpoint as cp
from counterpoint.contexts import OtherModel, chat

SHORT = ["--max-tokens", 6, "--temperature", 0]


@pytest.fixture
def files(tmp_path, folder):
    lines = [{"positive": f"{word}, yes", "negative": f"{word}, no!"} for word in ("Sea", "A tree", "Snow", "Time")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": q}) + "\n" for q in ("Why?", "How?", "Who?")))
    width = cp.load(folder).layers.width
    vector = cp.Vector({1: 8 * torch.randn(width, generator=torch.Generator().manual_seed(1))})
    vector.save(tmp_path / "v.gguf")
    return tmp_path


def test_fit_then_generate(run, folder, files):
    out = files / "made.safetensors"
    status, _, err = run("vectors", "fit", files / "pairs.jsonl", "--out", out, "--model", folder, "--layers", "0-1")
    assert status == 0 and "layers 0 to 1" in err and "4 pairs" in err
    model = cp.load(folder)
    pairs = [(f"{word}, yes", f"{word}, no!") for word in ("Sea", "A tree", "Snow", "Time")]
    assert cp.Vector.load(out) == cp.Vector.fit(model, pairs, layers=[0, 1])
    given = ["generate", "Hello", "--model", folder, *SHORT]
    status, text, err = run(*given, "--vector", out, "--vector-strength", -2)
    assert status == 0, err
    want = cp.generate(model.with_vector(cp.Vector.load(out), -2.0), "Hello", max_tokens=6, temperature=0).text
    assert text == want + "\n"
    assert run(*given, "--vector", out, "--vector-strength", 0)[1] == run(*given)[1]


def test_questions_under_two_system_messages(run, folder, files):
    out = files / "made.gguf"
    systems = ["--system", "Be kind.", "--negative-system", "none"]
    made = ["--method", "pca", "--directions", 2, "--layers", 1]
    assert run("vectors", "fit", files / "asked.jsonl", "--out", out, "--model", folder, *systems, *made)[0] == 0
    model = cp.load(folder)
    pairs = []
    for question in ("Why?", "How?", "Who?"):
        turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": question}]
        built = chat(model, turns, negative=cp.contexts.NO_SYSTEM)
        pairs.append((built.prompt, built.branches[0].context))
    want = cp.Vector.fit(model, pairs, method="pca", num_directions=2, layers=[1])
    assert cp.Vector.load(out) == want


def test_a_branch_that_names_a_vector(run, folder, files):
    named = ["--with-vector", f"own={files / 'v.gguf'}", '--branch=-0.5={"vector": "own", "strength": 2}']
    status, text, err = run("generate", "Hello", "--model", folder, *SHORT, *named)
    assert status == 0, err
    model = cp.load(folder)
    steered = model.with_vector(cp.Vector.load(files / "v.gguf"), 2.0)
    branches = [cp.Branch(OtherModel(steered), -0.5)]
    assert text == cp.generate(model, "Hello", branches=branches, max_tokens=6, temperature=0).text + "\n"


def test_a_job_with_a_vector_does_not_go_on_from_one_without(run, folder, files):
    (files / "in.jsonl").write_text(json.dumps({"prompt": "Hello"}) + "\n")
    job = ["batch", files / "in.jsonl", files / "out.jsonl", "--model", folder, *SHORT, "--quiet"]
    assert run(*job)[0] == 0
    status, _, err = run(*job, "--vector", files / "v.gguf")
    assert status == 2 and "model" in err, err


def test_scan_draws_what_it_prints(run, folder, files):
    page, picture = files / "scan.html", files / "scan.svg"
    given = ["vectors", "scan", files / "pairs.jsonl", "--model", folder, "--layers", "0,1", "--json"]
    status, out, err = run(*given, "--html", page, "--svg", picture)
    assert status == 0, err
    layers = json.loads(out)["layers"]
    assert [layer["layer"] for layer in layers] == [0, 1]
    root = ET.fromstring(picture.read_text())
    told = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert f"layer 1: {layers[1]['recovered']:.3f} moved towards the first texts" in told and len(told) == 6
    assert f"{layers[0]['size']:.3f}" in page.read_text() and "<script" not in page.read_text()


def test_show_and_the_other_format(run, files):
    status, out, _ = run("vectors", "show", files / "v.gguf", "--out", files / "v.safetensors")
    assert status == 0 and out.startswith("Vector(layer 1") and "length" in out
    assert cp.Vector.load(files / "v.safetensors") == cp.Vector.load(files / "v.gguf")
    assert json.loads(run("vectors", "show", files / "v.gguf", "--json")[1])["norms"].keys() == {"1"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vectors", "fit", "PAIRS", "--out", "x.txt"], "ends in .safetensors or .gguf"),
        (["vectors", "fit", "PAIRS", "--out", "/proc/x.gguf"], "--out is '/proc/x.gguf', which can't be written"),
        (["vectors", "fit", "EMPTY", "--out", "x.gguf"], "0 pairs are given; a vector needs 2"),
        (["vectors", "fit", "PAIRS", "--out", "x.gguf", "--system", "A"], "go together"),
        (
            ["generate", "Hi", "--vector", "V", "--model", "bundled"],
            "the vector is 32 wide and the states of bundled are 256 wide",
        ),
        (["vectors", "fit", "PAIRS", "--out", "x.gguf", "--layers", "9-2"], "as 8-20 or 3,5,9"),
        (["vectors", "fit", "PAIRS", "--out", "x.gguf", "--layers", "7"], "layers has 7"),
        (["vectors", "fit", "PAIRS", "--out", "x.gguf", "--method", "ica"], "--method is 'ica'"),
        (
            ["vectors", "fit", "PAIRS", "--out", "x.gguf", "--length", "far"],
            "--length is 'far'; use difference or states",
        ),
        (["vectors", "fit", "PAIRS", "--out", "x.gguf", "--directions", "2"], "--directions is 2 and --method is mean"),
        (["vectors", "fit", "ASKED", "--out", "x.gguf"], 'line 1 is .*; write {"positive": TEXT, "negative": TEXT}'),
        (["vectors", "fit", "V", "--out", "x.gguf"], "not valid"),
        (["vectors", "show", "PAIRS"], "is no control vector"),
        (["vectors", "sing"], "no command 'sing'"),
        (["generate", "Hi", "--vector-strength", "2"], "--vector-strength needs --vector"),
        (["generate", "Hi", "--vector", "V", "--vector-strength", "nan"], "--vector-strength is nan"),
        (["generate", "Hi", "--vector", "PAIRS"], "is no control vector"),
        (["generate", "Hi", "--vector", "V", "--compile"], "compiled steps don't see a vector"),
        (["generate", "Hi", "--with-vector", "own"], "write NAME=FILE"),
        (
            ["batch", "PAIRS", "out", "--engine", "http://localhost:1", "--vector", "V"],
            "--vector is for our own engine",
        ),
    ],
)
def test_mistakes_are_one_line(mistake, files, arguments, message):
    (files / "empty.jsonl").write_text("")
    named = {
        "EMPTY": files / "empty.jsonl",
        "PAIRS": files / "pairs.jsonl",
        "ASKED": files / "asked.jsonl",
        "V": files / "v.gguf",
    }
    mistake(arguments, message, named, has_model=arguments[1] not in ("show", "sing"))
