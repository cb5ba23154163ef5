import pytest

from counterpoint.trace.labels import labeller

HOSTILE = [
    "café ☕ 日本語 👩‍🚀",
    "<script>alert('x')</script><!-- -->&amp;</textarea>",
    "a\x00b\x1b[31mc\x07\x85d",
    "\u202eright to left\u202c \u2066x\u2069 \u200f שלום",
    "e\u0301 \ud7ff \ufeff \U0001f3f4\U000e0067\U000e0062",
    " line\none\ttwo\r\n\u2028three",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_pieces_together_are_the_text(make_trace, model, text):
    trace = make_trace(text)
    assert "".join(step.text for step in trace.steps) == trace.text == text
    assert trace.finish_reason == "stop" and trace.labels[trace.steps[-1].token_id] == "</s>"


def test_character_across_tokens_comes_with_its_last(make_trace, model):
    trace = make_trace("x👩")
    parts = [(trace.labels[step.token_id], step.text) for step in trace.steps[:-1]]
    assert len(parts) > 2, "the tokenizer has this character in one token; use a rarer one"
    assert parts[0][1] == "x"
    assert [text for _, text in parts[1:]] == [""] * (len(parts) - 2) + ["👩"]
    raw = "".join(label for label, _ in parts[1:])
    assert raw == r"\xf0\x9f\x91\xa9"


def test_character_that_is_never_completed(make_trace, model):
    trace = make_trace("x👩", max_tokens=2)
    assert trace.text == "x\ufffd" and [step.text for step in trace.steps] == ["x", "\ufffd"]


def test_label_keeps_the_space_before_a_word(model):
    label = labeller(model)
    ids = model.encode("the girl", special_tokens=False)
    assert "".join(map(label, ids)) == "the girl"


def test_label_of_special_and_unknown_ids(model):
    label = labeller(model)
    assert label(model.tokenizer.bos_token_id) == "<s>"
    assert label(len(model.tokenizer) + 5) == f"#{len(model.tokenizer) + 5}"
