"""What everyday use needs beside the texts: presets, records, escapes, contexts in every command, the docs' help."""

import json

import pytest
from cli.test_chat import talker

import counterpoint as cp

SHORT = ["--max-tokens", "6", "--temperature", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("talker")
    for part in talker(context_len=1024):
        part.save_pretrained(path)
    return path


def test_presets_are_defaults_that_what_is_typed_wins_over(run, tmp_path):
    (tmp_path / "presets.toml").write_text(
        '[sad]\nguide = {scale = 2.5, space = "prob"}\ncontexts = {negative = "A happy day"}\n'
        'sampling = {temperature = 0, max_tokens = 5, stop = "zzz"}\n'
        '[two]\ncontexts = {branches = [{suffix = " no", weight = -0.5}]}\nsampling = {temperature = 0, max_tokens = 5}\n'
    )
    file = ["--presets", tmp_path / "presets.toml", "--json"]
    model, prompt = cp.load("bundled"), "The old house"
    plain = {"temperature": 0, "max_tokens": 5}
    guide = cp.Guide(2.5, space="prob")
    want = cp.generate(model, prompt, negative="A happy day", guide=guide, **plain)
    status, out, err = run("generate", prompt, "--preset", "sad", *file)
    assert (status, err) == (0, "") and json.loads(out)["token_ids"] == list(want.token_ids)
    want = cp.generate(
        model, prompt, negative="A wet day", guide=cp.Guide(4.0, space="prob"), temperature=0, max_tokens=3
    )
    typed = ["--negative", "A wet day", "--scale", "4", "--max-tokens", "3"]
    assert json.loads(run("generate", prompt, "--preset", "sad", *file, *typed)[1])["token_ids"] == list(want.token_ids)
    suffix = cp.Branch(cp.contexts.Suffix(" no"), -0.5)
    want = cp.generate(model, prompt, branches=[suffix], **plain)
    assert json.loads(run("generate", prompt, "--preset", "two", *file)[1])["token_ids"] == list(want.token_ids)
    status, out, err = run("compare", prompt, "--preset", "sad", "--scales", "1,2", *file)
    assert status == 0 and "the preset's scale 2.5 is left out; --scales" in err
    assert [cell["scale"] for cell in json.loads(out)["cells"]] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a]\nguide = {scale = 'high'}", "use a number"),
        ("[a]\nguide = {scal = 1}", "unknown guide field 'scal'"),
        ("[a]\nsampling = {temprature = 1}", "'temprature' among its sampling"),
        ("[a]\nsampling = {max_tokens = true}", "of the wrong kind"),
        ("[a]\nnegative = 'b'", "known are the tables"),
        ("a = 1", "write a table, as [a]"),
        ("[a", "not valid TOML"),
    ],
)
def test_a_broken_preset_is_told_in_one_line(run, tmp_path, text, words):
    (tmp_path / "p.toml").write_text(text)
    status, out, err = run("generate", "x", "--preset", "a", "--presets", tmp_path / "p.toml")
    assert (status, out) == (2, "") and words in err and err.count("\n") == 1


def test_what_was_asked_is_made_again(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "negative.txt").write_text("A happy day")
    log = tmp_path / "asked.jsonl"
    asked = ["generate", "-", "--negative-file", "negative.txt", "--max-tokens", "12", "--log", log]
    first = run(*asked, stdin=b"The old house")
    second = run(*asked, stdin=b"The new car")
    assert first[0] == second[0] == 0 and len(log.read_text().splitlines()) == 2
    monkeypatch.chdir("/")
    assert run("again", log) == second  # a seed was chosen and kept, and so was standard input
    assert run("again", log, "1") == first
    assert "--seed" in run("again", log, "--show")[1] and len(log.read_text().splitlines()) == 2
    (tmp_path / "negative.txt").write_text("Another day")
    status, _, err = run("again", log)
    assert status == 2 and "has changed since" in err and run("again", log, "--anyway")[0] == 0
    assert run("again", log, "3")[0] == 2


def test_escapes_and_no_prompt(run):
    model = cp.load("bundled")
    options = {"max_tokens": 6, "temperature": 0}
    want = cp.generate(model, "One.\nTwo\\", **options)
    assert run("generate", "-e", r"One.\nTwo\\", *SHORT)[1] == want.text + "\n"
    want = cp.generate(model, cp.contexts.Empty(), negative="A", guide=cp.Guide(2.0), **options)
    assert run("generate", "--no-prompt", "--negative", "A", "--scale", "2", *SHORT)[1] == want.text + "\n"
    assert cp.generate(model, [model.bos_id], **options).text == cp.generate(model, cp.contexts.Empty(), **options).text


def test_a_chat_is_traced_and_compared_with_the_same_options(run, folder):
    hf, tokenizer = talker(context_len=1024)
    model = cp.Model(hf, tokenizer, name=str(folder))
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    built = cp.contexts.chat(model, messages, negative="Be rude.")
    chat = ["Hello.", "--model", folder, "--system", "Be kind.", "--negative-system", "Be rude.", *SHORT]
    want = cp.trace.record(model, built, guide=cp.Guide(2.0), max_tokens=6, temperature=0)
    status, out, _ = run("trace", *chat, "--scale", "2", "--json", "--unguided")
    assert status == 0 and [json.loads(line)["token_id"] for line in out.splitlines()[1:-1]] == [
        s.token_id for s in want.steps
    ]
    status, out, _ = run("compare", *chat, "--scales", "2", "--spaces", "log", "--json")
    cell = json.loads(out)["cells"][0]
    assert status == 0 and cell["samples"][0]["token_ids"] == [s.token_id for s in want.steps]
    status, out, _ = run("trace", *chat, "--scale", "2", "--unguided")
    plain = cp.generate(model, built.prompt, max_tokens=6, temperature=0)
    assert "without guidance:" in out and plain.token_ids != tuple(s.token_id for s in want.steps)


def test_a_terminal_of_sixteen_colours_gets_colours_that_it_has():
    from rich.console import Console

    from counterpoint.report.terminal import RICH, STANDARD, palette_of

    assert palette_of(Console(color_system="standard")) is STANDARD
    assert palette_of(Console(color_system="truecolor")) is RICH and RICH.keys() == STANDARD.keys()
    assert not any("#" in style for style in STANDARD.values()) and len(set(STANDARD.values())) == len(STANDARD)
