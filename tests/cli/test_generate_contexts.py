import json

import pytest
from contexts.chat_templates import CHATML, byte_tokenizer
from contexts.test_second_model import tiny
from safetensors.torch import save_file

import counterpoint as cp

SHORT = ["--max-tokens", 4, "--temperature", 0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two small models with one tokenizer and a chat template."""
    top = tmp_path_factory.mktemp("models")
    for name, width in (("main", 268), ("other", 272)):
        model = tiny(width, byte_tokenizer(CHATML), name=name)
        model.hf.save_pretrained(top / name)
        model.tokenizer.save_pretrained(top / name)
    return top


def shown(run, folders, *arguments):
    """The branches that a command reads: (weight, text) each."""
    status, out, err = run("generate", *arguments, "--model", folders / "main", *SHORT, "--json", "--show-branches")
    assert status == 0, err
    return [(b["weight"], b["text"]) for b in json.loads(out)["branches"]]


@pytest.mark.parametrize(
    "arguments, want",
    [
        (["Hello", "--negative", "Bye", "--scale", 3], [(3, "Hello"), (-2, "Bye")]),
        (["Hello", "--last-tokens", 2], [(1.5, "Hello"), (-0.5, "lo")]),
        (["Hello", "--empty"], [(1.5, "Hello"), (-0.5, "<s>")]),
        (["Hello", "--suffix", " No"], [(1.5, "Hello"), (-0.5, "Hello No")]),
        (["A. Hello", "--without", "A."], [(1.5, "A. Hello"), (-0.5, "Hello")]),
        (["A. Hello", "--without", "A.", "--instead", "B."], [(1.5, "A. Hello"), (-0.5, "B. Hello")]),
        (["Hello", "--branch=-0.5=Bye", "--branch=0.25=Hi"], [(1.25, "Hello"), (-0.5, "Bye"), (0.25, "Hi")]),
        (["Hello", '--branch=-0.5={"last_tokens": 1}'], [(1.5, "Hello"), (-0.5, "o")]),
    ],
)
def test_what_the_branches_read(run, folders, arguments, want):
    assert shown(run, folders, *arguments) == want


def test_documents_from_files(run, folders, tmp_path):
    (tmp_path / "a.txt").write_text("It is red.\n")
    assert shown(run, folders, "What?", "--document", tmp_path / "a.txt") == [
        (1.5, "It is red.\n\n\nQuestion: What? Answer:"),
        (-0.5, "Question: What? Answer:"),
    ]


def test_chats(run, folders):
    system, default = "<|im_start|>system\n{}<|im_end|>\n", "You are a helpful assistant."
    rest = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    kind, rude, none, own = (system.format(text) + rest for text in ("Be kind.", "Be rude.", "", default))
    assert shown(run, folders, "Hi", "--system", "Be kind.") == [(1.5, kind), (-0.5, own)]
    assert shown(run, folders, "Hi", "--system", "Be kind.", "--negative-system", "Be rude.") == [
        (1.5, kind),
        (-0.5, rude),
    ]
    assert shown(run, folders, "Hi", "--system", "Be kind.", "--negative-system", "none") == [(1.5, kind), (-0.5, none)]
    assert shown(run, folders, "Hi", "--chat") == [(1, own)]
    branch = '--branch=-1={"system": "Be rude."}'
    assert shown(run, folders, "Hi", "--system", "Be kind.", branch) == [(2, kind), (-1, rude)]


def test_another_model_is_read_as_in_the_library(run, folders):
    from counterpoint.contexts import OtherModel, contrastive

    main, other = cp.load(folders / "main"), cp.load(folders / "other")
    for arguments, options in (
        (["--contrast", folders / "other"], {"prompt": contrastive("Hello", other)}),
        (
            ["--with-model", f"o={folders / 'other'}", '--branch=-0.7={"model": "o"}'],
            {"prompt": "Hello", "branches": [cp.Branch(OtherModel(other), -0.7)]},
        ),
    ):
        status, out, err = run("generate", "Hello", *arguments, "--model", folders / "main", *SHORT, "--json")
        assert status == 0, err
        want = cp.generate(main, **options, max_tokens=4, temperature=0)
        assert json.loads(out)["token_ids"] == list(want.token_ids)


def test_an_adapter_from_a_folder(run, folders, tmp_path):
    peft = pytest.importorskip("peft")
    model = cp.load(folders / "main")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model.hf)
    config.save_pretrained(tmp_path / "adapter")
    weights = peft.get_peft_model_state_dict(model.hf)
    weights = {f"base_model.model.{name}": weight for name, weight in weights.items()}
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    want = cp.generate(model, cp.contexts.against_adapter("Hello", model), max_tokens=4, temperature=0)
    plain = model.with_adapter(None)
    undone = cp.generate(
        plain, cp.contexts.against_adapter("Hello", plain, adapter="default"), max_tokens=4, temperature=0
    )
    for extra, completion in ([], want), (["--undo"], undone):
        arguments = ["--adapter", tmp_path / "adapter", *extra, "--model", folders / "main", *SHORT, "--json"]
        status, out, err = run("generate", "Hello", *arguments)
        assert status == 0, err
        assert json.loads(out)["token_ids"] == list(completion.token_ids)
    status, _, err = run("generate", "Hello", "--adapter", tmp_path, "--model", folders / "main")
    assert status == 2 and "no adapter_config.json" in err


def test_for_a_person_branches_go_to_standard_error(run, folders):
    arguments = ["--negative", "Hello\n", "--show-branches", "--model", folders / "main", *SHORT]
    status, out, err = run("generate", "Hello", *arguments)
    assert status == 0 and "--- prompt: weight 1.5, 5 tokens\nHello\n" in err
    assert "--- warning: branch 1 differs from the prompt in white space only" in err
    assert "---" not in out


def test_lines_have_branches_of_their_own(run, folders):
    lines = [
        {"prompt": "Hello", "branches": [{"last_tokens": 2}, {"prompt": "Bye", "weight": 0.5}]},
        {"prompt": "Hello", "branches": [{"prompt": "Bye", "nothing": 1}]},
        {"prompt": "Hello", "branches": "Bye"},
    ]
    stdin = "\n".join(map(json.dumps, lines)).encode()
    status, out, err = run("generate", "--jsonl", "-", "--model", folders / "main", *SHORT, stdin=stdin)
    branches = [cp.Branch(cp.contexts.LastTokens(2)), cp.Branch("Bye", 0.5)]
    want = cp.generate(cp.load(folders / "main"), "Hello", branches=branches, max_tokens=4, temperature=0)
    assert status == 2 and json.loads(out)["token_ids"] == list(want.token_ids)
    assert "line 2: unknown field 'nothing'" in err and "line 3: branches is 'Bye'" in err
    status, _, err = run("generate", "--jsonl", "-", "--empty", "--model", folders / "main", stdin=stdin)
    assert status == 2 and "--empty is for one PROMPT" in err


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--negative", "a", "--empty"], "--negative and --empty are given"),
        (["--last-tokens", 1, "--branch=1=a"], "--last-tokens and --branch are given"),
        (["--instead", "a"], "--instead needs --without"),
        (["--undo"], "--undo needs --adapter"),
        (["--branch", "Bye"], "write WEIGHT=TEXT"),
        (["--branch", "x=Bye"], "write WEIGHT=TEXT"),
        (["--branch", "1={"], "not valid JSON"),
        (["--branch", '1={"model": "o"}'], "no other model is loaded"),
        (["--chat", "--contrast", "x"], "for a plain prompt"),
        (["--document", "/nowhere"], "can't be read"),
        (["--without", "absent"], "0 times"),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, folders, arguments, reason):
    status, out, err = run("generate", "Hello", *arguments, "--model", folders / "main")
    assert status == 2 and reason in err and err.count("\n") == 1 and not out
