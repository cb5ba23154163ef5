"""`counterpoint generate` as its users type it, right and wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conformance.architectures import ARCHITECTURES
from patience import PATIENCE_S

import counterpoint as cp

SHORT = ["--max-tokens", "8", "--temperature", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder without a tokenizer."""
    path = tmp_path_factory.mktemp("llama")
    ARCHITECTURES["llama"].model().save_pretrained(path)
    return path


def test_json_holds_what_the_library_returns(run):
    status, out, err = run(
        "generate", "The old house", "--negative", "A happy day", "--scale", "3", "--space", "prob", *SHORT, "--json"
    )
    assert (status, err) == (0, "")
    record = json.loads(out)
    done = cp.generate(
        cp.load("bundled"), "The old house", negative="A happy day", guide=cp.Guide(scale=3, space="prob"), max_tokens=8,
        temperature=0,
    )  # fmt: skip
    assert record["text"] == done.text and record["token_ids"] == list(done.token_ids)
    assert record["finish_reason"] == done.finish_reason
    assert record["usage"]["completion_tokens"] == len(done.token_ids)


def test_stream_file_and_standard_input_agree(run, tmp_path):
    plain = run("generate", "It was a dark night", *SHORT)
    assert plain[0] == 0 and plain[1].strip()
    assert run("generate", "It was a dark night", *SHORT, "--stream") == plain
    assert run("generate", "-", *SHORT, stdin=b"It was a dark night") == plain
    (tmp_path / "prompt.txt").write_text("It was a dark night")
    assert run("generate", "--prompt-file", tmp_path / "prompt.txt", *SHORT) == plain


def test_json_lines_keep_their_order_and_name_the_broken_ones(run, tmp_path):
    lines = [
        '{"prompt": "One", "seed": 1, "id": "a"}',
        "{broken",
        '{"prompt": "Two", "negative": "Three", "guide": {"scale": 2.0}, "max_tokens": 3}',
        '{"prompt": "Two", "wrong": 1}',
        '{"prompt": "Four", "guide": "scale=2,space=prob"}',
        '{"negative": "no prompt"}',
    ]
    (tmp_path / "many.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    status, out, err = run("generate", "--jsonl", tmp_path / "many.jsonl", *SHORT)
    assert status == 2
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["line"] for record in records] == [1, 3, 5]
    assert records[0]["id"] == "a" and records[1]["usage"]["completion_tokens"] == 3
    assert [line.split(" line ")[1].split(":")[0] for line in err.splitlines()] == ["2", "4", "6", "7"]
    assert "unknown field 'wrong'" in err and "not valid JSON" in err and "not valid UTF-8" in err


def test_a_folder_works(run, folder):
    status, out, err = run("generate", "text", "--model", folder)
    assert status == 2 and "no tokenizer" in err


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([""], "the prompt is empty"),
        ([], "give a PROMPT"),
        (["x", "--scale", "nan"], "--scale is nan"),
        (["x", "--scale", "inf"], "--scale is inf"),
        (["x", "--scale", "three"], "--scale is 'three'; use a number"),
        (["x", "--plausibility", "1.5"], "--plausibility is 1.5; use a number from 0 to 1"),
        (["x", "--space", "sqrt"], "--space is 'sqrt'; use one of log, prob"),
        (["x", "--adaptive", "kl"], "--adaptive is 'kl'"),
        (["x", "--max-tokens", "0"], "--max-tokens is 0"),
        (["x", "--max-tokens", "-3"], "--max-tokens is -3"),
        (["x", "--max-tokens", "many"], "--max-tokens is many"),
        (["x", "--temperature", "-1"], "--temperature is -1"),
        (["x", "--model", "./no/such/folder"], "there is no model folder './no/such/folder'"),
        (["x", "--model", "nonsense"], "there is no model folder 'nonsense'"),
        (["x", "--dtype", "float8"], "--dtype is 'float8'; use one of"),
        (["x " * 3000], "shorten it"),
        (["--prompt-file", "/no/such/file"], "can't be read"),
        (["x", "--stream", "--json"], "leave out --json"),
        (["x", "--wrong"], "--wrong"),
        (["--jsonl", "/no/such/file"], "can't be read"),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, arguments, words):
    status, out, err = run("generate", *arguments)
    assert status == 2 and out == ""
    assert err.count("\n") == 1 and words in err and "Traceback" not in err


def test_invalid_utf8(run):
    status, _, err = run("generate", "-", stdin=b"abc\xff")
    assert status == 2 and "not valid UTF-8 at byte 3" in err


def test_broken_model_folders(run, folder, tmp_path):
    def broken(name, change):
        target = tmp_path / name
        subprocess.run(["cp", "-r", folder, target], check=True)
        change(target)
        status, _, err = run("generate", "x", "--model", target)
        assert status == 2 and err.count("\n") == 1, err
        return err

    def truncate(target):
        weights = target / "model.safetensors"
        os.truncate(weights, weights.stat().st_size // 2)

    def lose_a_weight(target):
        from safetensors.torch import load_file, save_file

        state = load_file(target / "model.safetensors")
        del state["model.layers.0.mlp.up_proj.weight"]
        save_file(state, target / "model.safetensors", metadata={"format": "pt"})

    def encoder(target):
        transformers.BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30
        ).save_pretrained(target)

    def vision(target):
        transformers.ViTConfig(hidden_size=16, num_hidden_layers=1).save_pretrained(target)

    assert "can't be loaded" in broken("truncated", truncate)
    assert "lacks 1 of its weights" in broken("lost", lose_a_weight)
    assert "no config.json" in broken("bare", lambda target: (target / "config.json").unlink())
    assert "not valid JSON" in broken("garbled", lambda target: (target / "config.json").write_text("{"))
    assert "not a causal language model" in broken("vision", vision)
    broken("encoder", encoder)


def test_a_negative_that_changes_nothing_is_a_warning(run):
    status, out, err = run("generate", "Hello", "--negative", "Hello", "--scale", "3", *SHORT)
    assert status == 0 and out and "warning: guidance changes nothing" in err


def test_interrupt_keeps_what_was_printed():
    program = Path(__file__).parents[1] / "slowly.py"
    prompt = "Genre: horror.\n\nThe door"
    command = [sys.executable, program, "20", "generate", prompt, "--stream", "--max-tokens", "1000", "--seed", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert len(first) == 1 and not err.strip()


def test_neither_the_import_nor_the_help_loads_anything_heavy():
    code = (
        "import contextlib, sys; before = set(sys.modules); from counterpoint.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    shown, _, modules = subprocess.check_output([sys.executable, "-c", code], text=True).rstrip().rpartition("\n")
    assert "generate" in shown and set(modules.split()) == {"click", "counterpoint"}


def test_info(run):
    status, out, _ = run("info", "--json")
    facts = json.loads(out)
    assert status == 0 and facts["torch"] == torch.__version__ and facts["parameters"] > 10**6


def test_drafts_change_no_token(run):
    asked = [
        "generate",
        "one two one two one two one",
        "--negative",
        "x",
        "--max-tokens",
        "16",
        "--temperature",
        "0",
        "--json",
    ]
    plain = json.loads(run(*asked)[1])
    for drafts in (["--draft-tokens", "4"], ["--draft-tokens", "4", "--draft-model", "bundled"]):
        status, out, err = run(*asked, *drafts)
        assert status == 0 and json.loads(out)["token_ids"] == plain["token_ids"], err
    status, _, err = run(*asked, "--draft-model", "bundled")
    assert status == 2 and "--draft-model needs --draft-tokens" in err
