import json

import pytest
from distillation.small_chat import QUESTIONS, saved

pytest.importorskip("peft")
SETTING = ["--system", "Be kind.", "--negative-system", "Be rude.", "--scale", "3", "--max-tokens", "6"]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(QUESTIONS[:10]))
    return path


def test_an_adapter_and_its_card(run, tmp_path, prompts):
    model = saved(tmp_path / "model")
    given = ["distil", prompts, "--model", model, "--out", tmp_path / "run", *SETTING, "--epochs", "2", "--rank", "4"]
    status, out, err = run(*given, "--merge", "--modules", "q_proj,v_proj", "--held-out", "0.2")
    assert status == 0, err
    assert out.startswith(f"{tmp_path / 'run' / 'adapter'}: ") and "percent of the way to guidance" in out
    assert (tmp_path / "run" / "merged" / "config.json").is_file()
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"] and config["r"] == 4
    status, out, _ = run(*given, "--modules", "q_proj,v_proj", "--held-out", "0.2", "--json")
    card = json.loads(out)
    assert status == 0 and card["contexts"]["negative"] == "Be rude." and card["prompts"]["held_out"] == 2
    status, text, _ = run(
        "generate",
        "What?",
        "--model",
        model,
        "--adapter",
        tmp_path / "run" / "adapter",
        "--max-tokens",
        "3",
        "--seed",
        0,
    )
    assert status == 0 and text


def test_the_same_as_the_library_gives(run, tmp_path, prompts):
    from safetensors.torch import load_file

    import counterpoint as cp
    from counterpoint.distillation import Adapter, Training, Writing

    model = saved(tmp_path / "model")
    given = ["--model", model, "--out", tmp_path / "run", *SETTING, "--epochs", "1", "--candidates", "2", "--seed", "3"]
    assert run("distil", prompts, *given, "--rule", "regex=.", "--temperature", "0.8")[0] == 0
    cp.distil(
        cp.load(model), QUESTIONS[:10], out=tmp_path / "own", chat=True, system="Be kind.", negative="Be rude.",
        guide=cp.Guide(3), rules=["regex=."], seed=3, adapter=Adapter(), training=Training(epochs=1),
        writing=Writing(2, sampling={"max_tokens": 6, "temperature": 0.8}), say=lambda line: None,
    )  # fmt: skip
    ours, theirs = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "own"))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.parametrize(
    "more, said",
    [
        ([], "give PROMPTS (a file), or --write"),
        (["/no/prompts"], "PROMPTS is '/no/prompts'"),
        (["PROMPTS", "--rule", "short"], "the rule 'short' is not KIND=VALUE"),
        (["PROMPTS", "--target", "words"], "--target is 'words'; use one of distribution, samples"),
        (["PROMPTS", "--rank", "0"], "--rank is 0"),
        (["PROMPTS", "--held-out", "2"], "--held-out is 2"),
        (["PROMPTS", "--candidates", "3", "--temperature", "0"], "--candidates is 3 and temperature is 0"),
        (["PROMPTS", "--student-without", "x"], "--student-without is for plain prompts"),
        (["PROMPTS", "--instead", "x"], "--instead needs --without"),
        (["PROMPTS", "--scale", "1"], "there is nothing to learn from this guide: the guidance scale is 1"),
        (["PROMPTS", "--modules", "nope"], "has no linear layer of that name"),
        (["PROMPTS", "--weights", "int8"], "kept in 8 or 4 bits"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, prompts, more, said):
    model = saved(tmp_path / "model") if "PROMPTS" in more else "bundled"
    given = [prompts if one == "PROMPTS" else one for one in more]
    status, _, err = run("distil", *given, "--model", model, "--out", tmp_path / "run", *SETTING[:4])
    lines = [line for line in err.splitlines() if line.startswith("counterpoint: ")]
    assert status == 2 and len(lines) == 1 and said in lines[0], err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    "out, said",
    [("few/run", "few' is a file; give a folder"), ("/proc/run", "which can't be written; give another folder")],
)
def test_folders_that_can_t_be_made(run, tmp_path, prompts, out, said):
    (tmp_path / "few").write_text("What?\n")
    status, _, err = run("distil", prompts, "--model", "bundled", "--out", tmp_path / out, *SETTING)
    assert status == 2 and len(err.splitlines()) == 1 and said in err, err


def test_too_few_prompts(run, tmp_path):
    (tmp_path / "few").write_text("What?\n")
    model = saved(tmp_path / "model")
    status, _, err = run("distil", tmp_path / "few", "--model", model, "--out", tmp_path / "run", *SETTING)
    assert status == 2 and "the number of prompts is 1; give 8 or more" in err
