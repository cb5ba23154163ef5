"""Conversations with pictures, from messages to what the model reads."""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, Qwen3_5Config

import counterpoint as cp
from counterpoint import contexts
from counterpoint.cli import main
from counterpoint.contexts import Inputs, picture_chat, picture_prompt, pictures
from counterpoint.errors import GuideError, PromptError
from counterpoint.models.loading import _class_for

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_vision.py"
QUESTION = "Is the red circle on the left?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model of scripts/train_vision.py with nothing learned yet."""
    spec = importlib.util.spec_from_file_location("train_vision", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    torch.manual_seed(0)
    model, processor = script.build(24)
    path = tmp_path_factory.mktemp("vlm")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return cp.load(folder)


def photo(red: int = 200) -> Image.Image:
    picture = Image.new("RGB", (24, 24), (20, 20, 20))
    picture.paste((red, 0, 0), (2, 8, 9, 15))
    return picture


def asked(image, text: str = QUESTION) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def as_inputs(model, image, text: str = QUESTION) -> Inputs:
    images = None if image is None else [image]
    mark = "" if image is None else "<image>\n"
    return Inputs(model.processor(text=[f"{mark}{text}\n"], images=images, return_tensors="pt"))


def test_a_conversation_is_what_the_processor_makes_of_it(model):
    built = picture_chat(model, asked(photo()))
    assert built.prompt == as_inputs(model, photo()) == picture_prompt(model, asked(photo()))
    assert built.branches[0].context == as_inputs(model, pictures.noisy(photo()))
    assert built.guide == cp.Guide(scale=2.0, plausibility=0.1)


@pytest.mark.parametrize(
    "negative, want",
    [
        (pictures.blank, lambda model: as_inputs(model, pictures.blank(photo()))),
        (lambda _: None, lambda model: as_inputs(model, None)),
        (asked(photo(30), "What is it?"), lambda model: as_inputs(model, photo(30), "What is it?")),
        ("Be wrong.", lambda model: Inputs(model.processor(text=[f"Be wrong.\n<image>\n{QUESTION}\n"], images=[photo()], return_tensors="pt"))),
    ],
    ids=["another picture", "none", "another conversation", "a system message"],
)  # fmt: skip
def test_the_negative_is_another_picture_or_text(model, negative, want):
    built = picture_chat(model, asked(photo()), negative=negative)
    assert built.branches[0].context == want(model) and built.guide is None
    both = picture_chat(
        model, asked(photo()), branches=[cp.Branch(negative, -0.5), cp.Branch(contexts.LastTokens(), 0.2)]
    )
    assert [branch.weight for branch in both.branches] == [-0.5, 0.2]
    assert both.branches[0].context == want(model)


def test_pictures_come_in_any_form(model, tmp_path):
    photo().save(tmp_path / "photo.png")
    raw = io.BytesIO()
    photo().save(raw, "png")
    url = "data:image/png;base64," + base64.b64encode(raw.getvalue()).decode()
    forms = [tmp_path / "photo.png", str(tmp_path / "photo.png"), raw.getvalue(), url, photo().convert("RGBA")]
    parts = [{"type": "image", "image": form} for form in forms]
    parts += [{"type": "image_url", "image_url": {"url": url}}, {"type": "input_image", "image_url": url}]
    for part in parts:
        given = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
        assert picture_prompt(model, given) == as_inputs(model, photo())


def test_generate_and_stream_read_it(model):
    built = picture_chat(model, asked(photo()), negative=pictures.blank)
    done = cp.generate(model, built, guide=cp.Guide(scale=3.0), max_tokens=8, temperature=0, logprobs=0)
    assert "".join(cp.stream(model, built, guide=cp.Guide(scale=3.0), max_tokens=8, temperature=0)) == done.text
    texts = model.processor(text=[f"<image>\n{QUESTION}\n"], images=[photo()], return_tensors="pt")
    other = model.processor(text=[f"<image>\n{QUESTION}\n"], images=[pictures.blank(photo())], return_tensors="pt")
    out = model.hf.generate(
        **texts, custom_generate=cp.transformers.generate, negative_inputs=other, guidance_scale=3.0, max_new_tokens=8, do_sample=False,
    )  # fmt: skip
    assert list(done.token_ids) == out[0, texts["input_ids"].shape[1] :].tolist()
    assert done.usage.prompt_tokens == texts["input_ids"].shape[1]
    assert contexts.show(model, built).warnings == ()


def test_text_alone_goes_on_as_before(model):
    assert cp.generate(model, "Once", max_tokens=3, temperature=0).token_ids


def test_what_else_reads_prompts_refuses_pictures(model):
    with pytest.raises(PromptError, match="read by generate and stream alone"):
        contexts.read_request(model, picture_chat(model, asked(photo())))


WRONG = [
    (lambda m: picture_chat(m, asked(3)), "the picture is a int"),
    (lambda m: picture_chat(m, asked("/no/such.png")), "no such file"),
    (lambda m: picture_chat(m, asked(b"text")), "no picture in it"),
    (lambda m: picture_chat(m, asked("https://example.org/a.png")), "give the picture itself"),
    (lambda m: picture_chat(m, asked("data:image/png;base64,@@")), "not base64"),
    (lambda m: picture_chat(m, [{"role": "user", "content": "no picture"}]), "no picture to change"),
    (lambda m: picture_chat(m, [{"role": "user", "content": [{"type": "video", "video": 1}]}]), "type text or image"),
    (lambda m: picture_chat(m, "text"), "a list of objects with role"),
    (lambda m: picture_chat(cp.load("bundled"), asked(photo())), "bundled has no processor"),
    (
        lambda m: picture_prompt(m, asked(photo()) + asked(photo())[:0] + [{"role": "user", "content": [5]}]),
        "a part of",
    ),
    (lambda m: Inputs([1, 2]), "the inputs are list"),
    (lambda m: Inputs({"pixel_values": torch.ones(1)}), "no input_ids"),
    (lambda m: Inputs({"input_ids": [1, 2]}), "input_ids as a list"),
    (lambda m: Inputs({"input_ids": torch.ones(2, 3)}), r"shape \(2, 3\)"),
    (lambda m: Inputs({"input_ids": torch.ones(1, 2), "attention_mask": torch.tensor([[0, 1]])}), "padding"),
    (lambda m: cp.generate(m, m.processor(text=["a"], return_tensors="pt")), "contexts.Inputs"),
]


@pytest.mark.parametrize("call, message", WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_one_line(model, call, message):
    with pytest.raises(PromptError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_a_negative_and_branches_are_one_too_many(model):
    with pytest.raises(GuideError, match="both negative and branches"):
        picture_chat(model, asked(photo()), negative="Be wrong.", branches=[cp.Branch("Be wrong.")])


def test_pictures_are_read_where_the_weights_were_saved_with_them():
    for architectures, want in (
        (["Qwen3_5ForConditionalGeneration"], AutoModelForMultimodalLM),
        (["Qwen3_5ForCausalLM"], AutoModelForCausalLM),
        (None, AutoModelForCausalLM),
    ):
        assert _class_for(Qwen3_5Config(architectures=architectures)) is want


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--max-tokens", "5", "--temperature", "0"])
    told = capsys.readouterr()
    return ended.value.code or 0, told.out, told.err


@pytest.mark.parametrize(
    "options, negative",
    [([], None), (["--negative-picture", "blank"], pictures.blank), (["--negative-system", "Be wrong."], "Be wrong.")],
    ids=["unguided", "a picture", "a system message"],
)
def test_the_command_line_reads_pictures(folder, model, tmp_path, capsys, options, negative):
    photo().save(tmp_path / "photo.png")
    built = (
        picture_prompt(model, asked(photo()))
        if negative is None
        else picture_chat(model, asked(photo()), negative=negative)
    )
    guide = None if negative is None else cp.Guide()
    want = cp.generate(model, built, guide=guide, max_tokens=5, temperature=0).text
    code, out, told = run(
        capsys, "generate", QUESTION, "--picture", str(tmp_path / "photo.png"), *options, "--model", str(folder)
    )
    assert (code, out) == (0, want + "\n"), told
    bad = [
        (["--negative-picture", "blank"], "--negative-picture needs --picture"),
        (["--picture", str(tmp_path / "photo.png"), "--negative-picture", "fog"], "use noisy:STEPS"),
        (["--picture", str(SCRIPT)], "no picture in it"),
    ]
    for wrong, message in bad:
        code, _, told = run(capsys, "generate", QUESTION, *wrong, "--model", str(folder))
        assert code == 2 and message in told and told.count("\n") == 1
