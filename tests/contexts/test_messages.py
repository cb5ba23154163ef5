"""The normal form of a conversation, under templates of different habits."""

import pytest
from contexts.chat_templates import TEMPLATES, byte_tokenizer

from counterpoint.contexts import NO_SYSTEM, chat, chat_prompt
from counterpoint.errors import PromptError

USER = {"role": "user", "content": "Who are you?"}
NAMING = (
    "{% for m in messages %}{% if m.role == 'developer' %}<dev>{{ m.content }}</dev>{% elif m.role == 'system' %}"
    "<sys>{{ m.content }}</sys>{% else %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endif %}{% endfor %}"
)
PARTS_ONLY = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
LAST_ONLY = "{{ messages[0].content }}|{{ messages[-1].content }}"
TOOLS = (
    "{% if tools %}{% for t in tools %}{{ t.function.name }};{% endfor %}{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]"
    "{% endfor %}{% endfor %}"
)


def of(role, content):
    return {"role": role, "content": content}


def prompt(template, messages, **options):
    return chat_prompt(byte_tokenizer(template), messages, **options).text


@pytest.mark.parametrize("habit", TEMPLATES)
def test_developer_is_system_where_the_template_does_not_name_it(habit):
    template = TEMPLATES[habit]
    assert prompt(template, [of("developer", "Be kind."), USER]) == prompt(template, [of("system", "Be kind."), USER])
    built = chat(byte_tokenizer(template), [of("developer", "Be kind."), USER], negative="Be rude.")
    assert "kind" not in built.branches[0].context.text and "Be rude." in built.branches[0].context.text


def test_developer_stays_where_the_template_names_it():
    assert prompt(NAMING, [of("developer", "Be kind."), USER]).startswith("<dev>Be kind.</dev>")
    built = chat(byte_tokenizer(NAMING), [of("developer", "Be kind."), USER], negative="Be rude.")
    assert built.branches[0].context.text.startswith("<dev>Be rude.</dev>")


@pytest.mark.parametrize("habit", TEMPLATES)
@pytest.mark.parametrize("roles", [("system", "system"), ("system", "developer"), ("developer", "system", "system")])
def test_leading_system_messages_are_one_and_are_replaced_as_one(habit, roles):
    leading = [of(role, f"Rule {number}.") for number, role in enumerate(roles)]
    joined = "\n\n".join(message["content"] for message in leading)
    template = TEMPLATES[habit]
    assert prompt(template, [*leading, USER]) == prompt(template, [of("system", joined), USER])
    for negative in ("Be rude.", NO_SYSTEM):
        built = chat(byte_tokenizer(template), [*leading, USER], negative=negative)
        assert "Rule" in built.prompt.text and "Rule" not in built.branches[0].context.text


def test_a_default_system_message_does_not_stand_beside_a_developers():
    text = prompt(TEMPLATES["chatml"], [of("developer", "Be kind."), USER])
    assert "helpful assistant" not in text and text.count("<|im_start|>system") == 1


def test_a_conversation_of_a_system_message_only():
    assert "Be kind." in prompt(TEMPLATES["chatml"], [of("system", "Be kind.")])
    with pytest.raises(PromptError, match="no user turn"):
        prompt(TEMPLATES["phi"], [of("system", "Be kind.")])


@pytest.mark.parametrize("habit, refused", [("chatml", False), ("llama3", True), ("gemma", True), ("phi", True)])
def test_a_system_message_in_the_middle_is_shown_or_refused(habit, refused):
    messages = [USER, of("assistant", "A friend."), of("system", "Now be brief."), of("user", "Why?")]
    if refused:
        with pytest.raises(PromptError) as caught:
            prompt(TEMPLATES[habit], messages)
        assert caught.value.param == "messages"
    else:
        assert "Now be brief." in prompt(TEMPLATES[habit], messages)


@pytest.mark.parametrize("text", ["A friend.", "|", "a", "Who"])
def test_a_turn_that_the_template_leaves_out_is_refused_however_short(text):
    messages = [USER, of("assistant", text), of("user", "Who are you, Waha|?")]
    with pytest.raises(PromptError, match="leaves out"):
        prompt(LAST_ONLY, messages)
    with pytest.raises(PromptError, match="leaves out"):
        chat(byte_tokenizer(LAST_ONLY), [USER], negative=messages)


def test_a_template_for_parts_gets_parts():
    assert prompt(PARTS_ONLY, [of("system", "Be kind."), USER]) == "<system>Be kind.<user>Who are you?"
    built = chat(byte_tokenizer(PARTS_ONLY), [of("system", "Be kind."), USER], negative="Be rude.")
    assert built.branches[0].context.text == "<system>Be rude.<user>Who are you?"


def test_thoughts_that_a_template_leaves_out_are_not_missed():
    forgetful = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{% endfor %}"
    answer = of("assistant", "<think>hm</think>A friend.")
    assert prompt(forgetful, [USER, answer, USER]).count("A friend.") == 1


def test_tool_turns_are_shown_or_refused():
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "the sky"}}}
    turns = [USER, {**of("assistant", ""), "tool_calls": [call]}, of("tool", "blue")]
    assert '[look {"at": "the sky"}]' in prompt(TOOLS, turns)
    with pytest.raises(PromptError, match="'look' of a assistant message|leaves out"):
        prompt(TEMPLATES["chatml"], turns)


@pytest.mark.parametrize("habit", TEMPLATES)
def test_a_prompt_alone_is_that_of_the_pair(habit):
    messages = [of("system", "Be kind."), USER]
    assert (
        chat_prompt(byte_tokenizer(TEMPLATES[habit]), messages)
        == chat(byte_tokenizer(TEMPLATES[habit]), messages).prompt
    )
