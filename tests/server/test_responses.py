"""`/v1/responses`, by the official client: the same text as the chat, its events, its history."""

import openai
import pytest

GREEDY = {"temperature": 0, "max_output_tokens": 8, "extra_body": {"ignore_eos": True}}
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello, who are you?"}]


def text_of_chat(client, messages, **fields):
    done = client.chat.completions.create(
        model="tiny", messages=messages, temperature=0, max_tokens=8, extra_body={"ignore_eos": True, **fields}
    )
    return done.choices[0].message.content


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "Hello, who are you?", "instructions": "Be kind."},
        {"input": CHAT},
        {"input": [{"type": "message", **CHAT[1]}], "instructions": "Be kind."},
        {"input": [CHAT[0], {"role": "user", "content": [{"type": "input_text", "text": "Hello, who are you?"}]}]},
        {
            "input": [
                {"role": "developer", "content": "Be kind."},
                {"type": "reasoning", "id": "r", "summary": []},
                CHAT[1],
            ]
        },
    ],
)
def test_the_text_is_the_chats(client, fields):
    done = client.responses.create(model="tiny", **fields, **GREEDY)
    assert done.output_text == text_of_chat(client, CHAT)
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert done.usage.output_tokens == 8 and done.usage.total_tokens == done.usage.input_tokens + 8


def test_guidance(client):
    fields = {"negative_prompt": "Be rude.", "guidance_scale": 3.0}
    done = client.responses.create(
        model="tiny", input=CHAT, temperature=0, max_output_tokens=8, extra_body={"ignore_eos": True, **fields}
    )
    assert done.output_text == text_of_chat(client, CHAT, **fields) != text_of_chat(client, CHAT)
    assert done.usage.branch_tokens > 8


def test_the_events(client):
    whole = client.responses.create(model="tiny", input="Hi", top_logprobs=2, **GREEDY)
    events = list(client.responses.create(model="tiny", input="Hi", top_logprobs=2, stream=True, **GREEDY))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text == events[-4].text
    assert events[-1].response.output_text == whole.output_text
    assert len(whole.output[0].content[0].logprobs) == 8 == sum(len(event.logprobs) for event in deltas)
    with client.responses.stream(model="tiny", input="Hi", **GREEDY) as stream:
        stream.until_done()


def test_an_answer_is_history(client):
    done = client.responses.create(model="tiny", input="Hello, who are you?", instructions="Be kind.", **GREEDY)
    history = [{"role": "user", "content": "Hello, who are you?"}, *done.output, {"role": "user", "content": "Why?"}]
    more = client.responses.create(model="tiny", input=history, instructions="Be kind.", **GREEDY)
    turns = [*CHAT, {"role": "assistant", "content": done.output_text}, {"role": "user", "content": "Why?"}]
    assert more.output_text == text_of_chat(client, turns)


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True}, {"truncation": "disabled"}, {"background": False}, {"include": ["reasoning.encrypted_content"]},
        {"text": {"format": {"type": "text"}}}, {"reasoning": {"effort": None, "summary": "auto"}}, {"tools": []},
        {"parallel_tool_calls": True, "tool_choice": "auto"}, {"metadata": {"a": "b"}}, {"service_tier": "auto"},
        {"prompt_cache_key": "x"}, {"safety_identifier": "u"}, {"previous_response_id": None}, {"max_tool_calls": 3},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_passes(client, fields):
    plain = client.responses.create(model="tiny", input="Hi", **GREEDY).output_text
    assert client.responses.create(model="tiny", input="Hi", **GREEDY, **fields).output_text == plain


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": "Hi", "text": {"verbosity": "low"}}, "text.verbosity"),
        ({"input": "Hi", "extra_body": {"unheard": 1}}, "unheard"),
    ],
)
def test_what_is_refused(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", **{"input": "Hi"} | fields)
    assert caught.value.param == param
