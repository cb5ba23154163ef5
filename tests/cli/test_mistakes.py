"""Wrong calls as people type them: each is one line that says what to type, before a model is loaded for it."""

import json

import pytest

import counterpoint.models.loading

P = ["A dark night", "--negative", "A bright day"]
BEFORE = [
    # arguments, what the line has to say
    (["genrate", "x"], "did you mean generate?"),
    (["x"], "commands are generate"),
    (["a text to continue"], 'counterpoint generate "TEXT"'),
    (["generate"], "give a PROMPT"),
    (["generate", ""], "the prompt is empty; give a text, or --no-prompt"),
    (["generate", "x", "--no-prompt"], "keep"),
    (["generate", "x", "--prompt-file", __file__], "twice"),
    (["generate", "--prompt-file", "/no/file"], "--prompt-file is '/no/file', which can't be read"),
    (["generate", "x", "--negative", ""], "--negative is empty"),
    (["generate", "x", "--negative-file", "/no/file"], "--negative-file is '/no/file'"),
    (["generate", *P, "--negative-file", __file__], "keep one"),
    (["generate", *P, "--suffix", "y"], "--negative and --suffix are given; keep one"),
    (["generate", "x", "--instead", "y"], "--instead needs --without"),
    (["generate", "x", "--undo"], "--undo needs --adapter"),
    (["generate", "x", "--adapter", "/no/folder"], "there is no such folder"),
    (["generate", "x", "--document", "/no/file"], "--document is '/no/file'"),
    (["generate", "x", "--branch", "text"], "write WEIGHT=TEXT"),
    (["generate", "x", "--branch", "-1={bad"], "not valid JSON"),
    (["generate", "x", "--with-model", "small"], "write NAME=FOLDER"),
    (["generate", "x", "--scale", "3x"], "--scale is '3x'; use a number"),
    (["generate", "x", "--scal"], "--scale"),
    (["generate", "x", "--guidance-scale", "3"], "--guidance-scale"),
    (["generate", *P, "--space", "linear"], "--space is 'linear'; use one of log, prob"),
    (["generate", *P, "--plausibility", "10"], "--plausibility is 10.0; use a number from 0 to 1"),
    (["generate", *P, "--gate", "-1"], "--gate is -1.0"),
    (["generate", *P, "--start", "9", "--stop-guiding", "3"], "--stop-guiding is 3, before"),
    (["generate", *P, "--adaptive", "yes"], "--adaptive is 'yes'"),
    (["generate", "x", "--top-p", "0"], "--top-p is 0.0"),
    (["generate", "x", "--top-k", "-1"], "--top-k is -1; use a whole number, 0 or more"),
    (["generate", "x", "--min-p", "2"], "--min-p is 2.0"),
    (["generate", "x", "--repetition-penalty", "0"], "--repetition-penalty is 0.0"),
    (["generate", "x", "--temperature", "warm"], "--temperature is 'warm'"),
    (["generate", "x", "--max-tokens", "1e3"], "--max-tokens is 1e3; use a whole number"),
    (["generate", "x", "--seed", "-1"], "--seed is -1"),
    (["generate", "x", "--stop", ""], "--stop is ['']"),
    (["generate", "x", "--logit-bias", "the=3"], "--logit-bias takes a whole number"),
    (["generate", "x", "--logit-bias", "3"], "write ID=NUMBER, as 50=-100"),
    (["generate", "x", "-n", "0"], "-n is 0"),
    (["generate", "x", "--logprobs", "5"], "add --json"),
    (["generate", "x", "--stream", "-n", "2"], "--stream shows one text"),
    (["generate", "x", "--jsonl", __file__], "keep one"),
    (["generate", "--jsonl", "/no/file"], "--jsonl is '/no/file'"),
    (["generate", "--jsonl", __file__, "--suffix", "y"], "write branches into the lines"),
    (["generate", "x", "--draft-model", "bundled"], "needs --draft-tokens"),
    (["generate", "x", "--model", "/no/folder"], "there is no model folder"),
    (["generate", "x", "--model", "."], "has no config.json"),
    (["generate", "x", "--model", __file__], "is a file; give the folder"),
    (["generate", "x", "--model", "/no/file.gguf"], "there is no file '/no/file.gguf'"),
    (["generate", "x", "--dtype", "fp16"], "--dtype is 'fp16'; use one of"),
    (["generate", "x", "--weights", "int3"], "--weights is 'int3'"),
    (["generate", "x", "--device", "gpu"], "--device is 'gpu'"),
    (["generate", "x", "--device", "cuda:7"], "--device is 'cuda:7'"),
    (["generate", "x", "--preset", "stedy"], "did you mean steady?"),
    (["generate", "x", "--preset", "steady", "--presets", "/no/file"], "/no/file' can't be read"),
    (["generate", "x", "--log", "/nodir/log"], "there is no folder '/nodir'"),
    (["compare", "x"], "give --negative"),
    (["compare", *P, "--scale", "3"], "--scale"),
    (["compare", *P, "--scales", "1 3"], "--scales is '1 3'; use numbers with commas"),
    (["compare", *P, "--spaces", "log,both"], "use one of log, prob"),
    (["compare", *P, "--html", "/nodir/x.html"], "--html is '/nodir/x.html' and there is no folder"),
    (["compare", *P, "--html", "."], "which is a folder"),
    (["trace", *P, "--jsonl", "/nodir/x"], "--jsonl is '/nodir/x'"),
    (["trace", "--read", "/no/trace"], "--read is '/no/trace'"),
    (["bench", "x"], "nothing that it is read against"),
    (["bench", "--negative", "x"], "no PROMPT"),
    (["bench", "--rounds", "0"], "--rounds is 0"),
    (["eval"], "there is no task"),
    (["eval", "--lambada", "/no/file"], "--lambada is '/no/file'"),
    (["eval", "piqa", "--guide", "scale:3"], "write a guide as scale=3"),
    (["serve", "--max-body-mb", "0"], "--max-body-mb is 0.0"),
    (["serve", "--host", "nowhere.invalid"], "no address of this machine"),
    (["serve", "--with-model", "small"], "write NAME=FOLDER"),
    (["train", "/no/config.toml", "--data", ".", "--out", "x"], "CONFIG is '/no/config.toml'"),
    (["train", __file__, "--out", "x"], "--data"),
    (["again", "/no/file"], "FILE is '/no/file'"),
    (["again", __file__], "is no file that --log wrote"),
]


@pytest.fixture
def no_loading(monkeypatch):
    """Loading a model is what these calls must not come to."""

    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(counterpoint.models.loading, "_from_transformers", load)
    monkeypatch.setattr(counterpoint.models.loading, "_from_gguf", load)


@pytest.mark.parametrize(
    ("arguments", "words"), BEFORE, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else ""
)
def test_told_in_one_line_before_a_model_is_loaded(run, no_loading, arguments, words):
    status, out, err = run(*arguments)
    assert (status, out) == (2, ""), (status, out, err)
    assert err.startswith("counterpoint: ") and err.count("\n") == 1 and words in err, err


def test_a_taken_port_is_told_before_a_model_is_loaded(run, no_loading):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = run("serve", "--port", port)
    assert status == 2 and f"--port {port}" in err and "--port 0" in err and err.count("\n") == 1


def test_lines_that_have_one_mistake_are_one_message(run, no_loading, tmp_path):
    lines = [json.dumps({"prompt": f"text {i}", "temprature": 1}) for i in range(60)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    status, out, err = run("generate", "--jsonl", tmp_path / "many.jsonl")
    assert status == 2 and out == "" and err.count("\n") == 2
    assert "lines 1, 2, 3, 4, 5 and 55 more: unknown field 'temprature'" in err


AFTER = [  # what only the model can tell
    (["generate", "x " * 3000], "shorten it"),
    (["generate", "x", "--chat"], "chat template"),
    (["generate", "x", "--system", "y"], "chat template"),
    (["generate", "x", "--without", "passage"], "holds the passage 'passage' 0 times"),
    (["generate", "x", "--logit-bias", "99999=1"], "--logit-bias has the token id 99999"),
]


@pytest.mark.parametrize(("arguments", "words"), AFTER, ids=lambda value: "")
def test_what_only_the_model_can_tell_is_one_line_too(run, arguments, words):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1 and words in err, err
