import pytest

from counterpoint.errors import UsageError
from counterpoint.wire import messages_from_wire
from counterpoint.wire.messages import OF_ANSWERS

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}


def one(message):
    return messages_from_wire([message])[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None},
        {"tool_calls": []},
        {"id": "msg_1", "type": "message", "status": "completed"},
        {"parsed": {"a": 1}, "provider_specific_fields": {"x": 1}},
        {"images": [], "audio": {}},
        *({name: {"any": "thing"}} for name in sorted(OF_ANSWERS)),
    ],
)
def test_what_answers_hold_beside_their_text_is_ignored(fields):
    assert one({"role": "assistant", "content": "Hi", **fields}) == {"role": "assistant", "content": "Hi"}


@pytest.mark.parametrize(
    "content, text",
    [
        ("", ""),
        (["a", "b"], "a\nb"),
        ([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}], "a"),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b", "annotations": []}], "a\nb"),
        ([{"type": "refusal", "refusal": "No."}], "No."),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "a"}], "a"),
        ([], ""),
    ],
)
def test_content(content, text):
    assert one({"role": "user", "content": content})["content"] == text


def test_an_answer_without_content():
    assert one({"role": "assistant", "content": None, "refusal": "I won't."})["content"] == "I won't."
    assert one({"role": "assistant"}) == {"role": "assistant", "content": ""}


def test_thoughts_are_left_to_the_template():
    for name in ("reasoning_content", "reasoning"):
        assert one({"role": "assistant", "content": "a", name: "hm"})["reasoning_content"] == "hm"


def test_turns_of_tools():
    calling, answer = messages_from_wire(
        [
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        ]
    )
    assert calling["tool_calls"][0]["function"] == {"name": "look", "arguments": {"at": "sky"}}
    assert answer == {"role": "tool", "content": "blue", "tool_call_id": "c1", "name": "look"}
    older = one({"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}})
    assert older["tool_calls"][0]["function"] == {"name": "look", "arguments": {}}


@pytest.mark.parametrize(
    "message, param, words",
    [
        ("Hi", "messages[0]", "use an object"),
        ({"content": "a"}, "messages[0].role", "no role"),
        ({"role": "bot", "content": "a"}, "messages[0].role", "'bot'"),
        ({"role": "user", "content": None}, "messages[0].content", "missing or null"),
        ({"role": "user"}, "messages[0].content", "missing or null"),
        ({"role": "user", "content": 3}, "messages[0].content", "is 3"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]", "an image (image_url)"),
        ({"role": "user", "content": ["a", {"type": "input_audio"}]}, "messages[0].content[1]", "a sound"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text", "is None"),
        ({"role": "assistant", "content": "a", "audio": {"id": "x"}}, "messages[0].audio", "would be lost"),
        ({"role": "user", "content": "a", "images": ["x"]}, "messages[0].images", "would be lost"),
        ({"role": "user", "content": "a", "colour": 1, "size": 2}, "messages[0].colour", "'messages[0].size'"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "messages[0].tool_calls[0]", "NAME"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "messages[0].tool_calls", "no assistant's"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused_by_name(message, param, words):
    with pytest.raises(UsageError) as caught:
        messages_from_wire([message])
    assert caught.value.param == param and words in str(caught.value) and "\n" not in str(caught.value)
