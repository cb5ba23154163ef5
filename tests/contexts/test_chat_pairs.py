import pytest
from contexts.chat_templates import TEMPLATES, byte_tokenizer

from counterpoint.contexts import DEFAULT_SYSTEM, NO_SYSTEM, LastTokens, Rendered, chat
from counterpoint.errors import GuideError, PromptError
from counterpoint.guide import Branch

GIVEN, OPPOSITE = "Answer like a pirate.", "Answer like a clerk, at length."
TURNS = [
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A friend."},
    {"role": "user", "content": "Tell me\nmore. "},
]
SYSTEM = {"role": "system", "content": GIVEN}
# What stands around the system text in each template, written out by hand.
AROUND = {
    "chatml": (
        "<|im_start|>system\n",
        "<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nA friend.<|im_end|>\n"
        "<|im_start|>user\nTell me\nmore. <|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 1 Jan 2025\n\n",
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|><|start_header_id|>assistant"
        "<|end_header_id|>\n\nA friend.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nTell me\nmore.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": (
        "<s><start_of_turn>user\n",
        "\n\nWho are you?<end_of_turn>\n<start_of_turn>model\nA friend.<end_of_turn>\n<start_of_turn>user\n"
        "Tell me\nmore.<end_of_turn>\n<start_of_turn>model\n",
    ),
    "mistral": ("<s>[INST] Who are you?[/INST] A friend.</s>[INST] ", "\n\nTell me\nmore. [/INST]"),
    "phi": (
        "<s><|user|>\n",
        "\n\nWho are you?<|end|>\n<|assistant|>\nA friend.<|end|>\n<|user|>\nTell me\nmore. <|end|>\n<|assistant|>\n",
    ),
}
# The system part where there is no system text: the whole part, its separator included, or an empty message.
DEFAULT = {"chatml": "You are a helpful assistant.", "llama3": ""}


@pytest.fixture(params=TEMPLATES)
def habit(request):
    return request.param


def both(habit, messages, **options):
    built = chat(byte_tokenizer(TEMPLATES[habit]), messages, **options)
    assert all(isinstance(context, Rendered) for context in (built.prompt, built.branches[0].context))
    return built.prompt.text, built.branches[0].context.text


def test_an_opposite_system_message_changes_its_own_bytes_only(habit):
    before, after = AROUND[habit]
    assert both(habit, [SYSTEM, *TURNS], negative=OPPOSITE) == (before + GIVEN + after, before + OPPOSITE + after)


def test_the_default_is_what_the_template_writes_itself(habit):
    before, after = AROUND[habit]
    plain = byte_tokenizer(TEMPLATES[habit]).apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    want = before + DEFAULT.get(habit, "") + (after if habit in DEFAULT else after.removeprefix("\n\n"))
    assert plain == want
    for options in ({}, {"negative": DEFAULT_SYSTEM}):
        assert both(habit, [SYSTEM, *TURNS], **options) == (before + GIVEN + after, want)


def test_none_leaves_no_system_text(habit):
    before, after = AROUND[habit]
    want = before + (after if habit in DEFAULT else after.removeprefix("\n\n"))
    assert both(habit, [SYSTEM, *TURNS], negative=NO_SYSTEM) == (before + GIVEN + after, want)


def test_a_conversation_without_a_system_message_keeps_the_templates_own(habit):
    plain = byte_tokenizer(TEMPLATES[habit]).apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    before, after = AROUND[habit]
    assert both(habit, TURNS, negative=OPPOSITE) == (plain, before + OPPOSITE + after)


def test_parts_of_a_message_are_folded_too():
    turns = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    template = "{% for m in messages %}{% if m.role == 'user' %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}"
    built = chat(byte_tokenizer(template), [SYSTEM, *turns], negative=OPPOSITE)
    assert built.prompt.text == f"{GIVEN}\n\nHi"
    assert built.branches[0].context.text == f"{OPPOSITE}\n\nHi"


def test_a_whole_conversation_as_the_negative(habit):
    other = [{"role": "user", "content": "Be rude."}]
    _, text = both(habit, [SYSTEM, *TURNS], negative=other)
    assert "Be rude." in text and "Who are you?" not in text


def test_several_branches_keep_weights_and_other_contexts():
    branches = [Branch(OPPOSITE, -0.5), Branch("Answer like a poet.", 0.25), Branch(LastTokens(3))]
    built = chat(byte_tokenizer(TEMPLATES["chatml"]), [SYSTEM, *TURNS], branches=branches)
    assert [b.weight for b in built.branches] == [-0.5, 0.25, None]
    assert "poet" in built.branches[1].context.text
    assert built.branches[2].context == LastTokens(3)


def test_the_last_message_can_be_continued():
    messages = [SYSTEM, TURNS[0], {"role": "assistant", "content": "Arr, I be"}]
    cond, negative = both("chatml", messages, negative=OPPOSITE, continue_final=True)
    assert cond.endswith("<|im_start|>assistant\nArr, I be") and negative.endswith("<|im_start|>assistant\nArr, I be")


def test_options_reach_the_template():
    built = chat(byte_tokenizer(TEMPLATES["llama3"]), [SYSTEM, *TURNS], template={"date": "2 Feb 2026"})
    assert "2 Feb 2026" in built.prompt.text and "2 Feb 2026" in built.branches[0].context.text


@pytest.mark.parametrize(
    "messages, options, error, reason",
    [
        ("Hello", {}, PromptError, "list of objects"),
        ([], {}, PromptError, "list of objects"),
        ([{"content": "x"}], {}, PromptError, "role and content"),
        ([SYSTEM], {}, PromptError, "no user turn"),
        ([TURNS[0], TURNS[0]], {}, PromptError, "Roles must alternate"),
        ([SYSTEM, TURNS[1]], {}, PromptError, "no user turn"),
        (TURNS, {"negative": "x", "branches": [Branch("y")]}, GuideError, "both"),
        (TURNS, {"branches": []}, GuideError, "at least one"),
    ],
)
def test_mistakes_are_named(messages, options, error, reason):
    with pytest.raises(error, match=reason) as caught:
        chat(byte_tokenizer(TEMPLATES["gemma"]), messages, **options)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_template_says_so():
    with pytest.raises(PromptError, match="no chat template"):
        chat(byte_tokenizer(), TURNS)
