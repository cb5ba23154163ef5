import json

import pytest
from contexts.chat_templates import CHATML, byte_tokenizer
from contexts.test_second_model import tiny

import counterpoint as cp
from counterpoint.contexts import Empty, LastTokens, OtherModel, Suffix, Swapped, chat, show
from counterpoint.errors import PromptError

PROMPT = "The polite reply to your mail:\n"


@pytest.fixture(scope="module")
def model():
    return tiny(268, byte_tokenizer(CHATML), name="tiny")


def test_texts_weights_and_difference(model):
    shown = show(model, PROMPT, negative="The rude reply to your mail:\n", guide=cp.Guide(scale=3))
    first, second = shown.branches
    assert (first.name, first.weight, first.num_tokens, first.text) == ("prompt", 3, 31, PROMPT)
    assert (second.name, second.weight, second.text) == ("branch 1", -2, "The rude reply to your mail:\n")
    assert second.changes == (("=", "The "), ("-", "polite"), ("+", "rude"), ("=", " reply to your mail:\n"))
    assert shown.warnings == ()
    text = str(shown)
    assert "--- prompt: weight 3, 31 tokens\nThe polite reply" in text
    assert "--- branch 1, difference: The [-polite-]{+rude+} reply to your mail:\n" in text
    assert json.loads(json.dumps(shown.to_dict()))["branches"][1]["changes"][1] == ["-", "polite"]


@pytest.mark.parametrize(
    "negative, warning",
    [
        (PROMPT, "branch 1 is the prompt itself"),
        (PROMPT.strip(), "white space only"),
        ("The rude reply to your mail:", r"ends in '' and the prompt in '\n', so guidance pushes on that too"),
        ("Worse", "no beginning and no end in common"),
        ("<s>" + PROMPT, "only one of them begins with the token that begins a text"),
    ],
)
def test_slips_are_told(model, negative, warning):
    warnings = show(model, PROMPT, negative=negative).warnings
    assert warning in "; ".join(warnings)
    assert f"--- warning: {warnings[0]}" in str(show(model, PROMPT, negative=negative))


@pytest.mark.parametrize(
    "negative", [LastTokens(), LastTokens(5), Empty(), Suffix(" Rudely:"), "The rude reply to your mail:\n"]
)
def test_contexts_that_differ_by_design_are_no_slips(model, negative):
    assert show(model, PROMPT, negative=negative).warnings == ()


def test_a_suffix_shows_what_is_read(model):
    second = show(model, PROMPT, negative=Suffix("Rudely:")).branches[1]
    assert second.text == PROMPT + "Rudely:" and second.changes == (("=", PROMPT), ("+", "Rudely:"))


def test_a_branch_of_weight_zero_is_told(model):
    assert "has weight 0" in show(model, PROMPT, branches=[cp.Branch("The rude", 0)]).warnings[0]


def test_another_model_is_named(model):
    shown = show(model, PROMPT, negative=OtherModel(tiny(268, byte_tokenizer(), name="amateur")))
    assert shown.branches[1].model == "amateur" and shown.warnings == ()
    assert "read by amateur" in str(shown) and "difference: none" in str(shown)


def test_chat_shows_special_tokens_and_the_system_part(model):
    built = chat(
        model, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], negative="Be rude."
    )
    second = show(model, built).branches[1]
    assert [c for c in second.changes if c[0] != "="] == [("-", "kind"), ("+", "rude")]
    assert second.text.startswith("<|im_start|>system\nBe rude.<|im_end|>")


def test_long_texts_that_differ_everywhere_are_one_difference():
    model = cp.Model(tiny(268, None, name="ids").hf, None, name="ids")
    model.hf.config.max_position_embeddings = 10_000
    shown = show(model, [1, *[2, 3] * 2000, 4], negative=[1, *[5, 6, 7] * 1400, 4])
    kinds = [mark for mark, _ in shown.branches[1].changes]
    assert kinds == ["=", "-", "+", "="]


def test_swaps_are_made_in_the_prompts_text(model):
    negative = Swapped("polite", "rude")
    assert show(model, PROMPT, negative=negative).branches[1].text == "The rude reply to your mail:\n"
    assert show(model, "Doc.\n\nQ?", branches=[cp.Branch(Swapped("Doc."))]).branches[1].text == "Q?"
    built = chat(model, [{"role": "user", "content": "Doc. Q?"}], branches=[cp.Branch(Swapped("Doc."))])
    assert "user\nQ?<|im_end|>" in show(model, built).branches[1].text
    other = OtherModel(tiny(268, byte_tokenizer(), name="amateur"), negative)
    assert show(model, PROMPT, negative=other).branches[1].text == "The rude reply to your mail:\n"


@pytest.mark.parametrize(
    "prompt, passage, reason",
    [
        (PROMPT, "absent", "0 times"),
        ("a a", "a", "2 times"),
        ([5, 6], "a", "token ids"),
        (PROMPT, " ", "give a text of"),
    ],
)
def test_a_passage_that_cannot_be_swapped(model, prompt, passage, reason):
    with pytest.raises(PromptError, match=reason):
        show(model, prompt, negative=Swapped(passage))
