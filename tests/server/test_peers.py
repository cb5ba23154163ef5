"""What clients that were written for other servers send, and what they look for in the answer."""

import gzip
import json

import pytest
from patience import http
from server.conftest import CHATML, make_model, serving

from counterpoint.trace.labels import labeller

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "prompt, text, offsets",
    [
        ("<|im_start|>user\nHé<|im_end|>", None, [0, 12, 13, 14, 15, 16, 17, 18, 18, 19]),
        ([256, 256], "<|im_start|><|im_start|>", [0, 12]),
        ([256, 65, 66], "<|im_start|>bc", [0, 12, 13]),
        ([258], "<|end|>", [0]),
        ("", None, None),
    ],
)
def test_an_echo_is_the_text_of_the_prompt_and_offsets_are_its_places(server, prompt, text, offsets):
    if not prompt:
        assert server.post(prompt=prompt, echo=True, logprobs=0).status_code == 400
        return
    fields = {"prompt": prompt, "echo": True, "logprobs": 0, "temperature": 0, "ignore_eos": True}
    (choice,) = server.post(**fields, max_tokens=2).json()["choices"]
    told, text = choice["logprobs"], text or prompt
    assert choice["text"].startswith(text)
    assert told["text_offset"][:-2] == offsets and told["text_offset"][-2] == len(text)
    assert told["token_logprobs"][0] is None and None not in told["token_logprobs"][1:]
    only = server.post(**fields, max_tokens=0).json()["choices"][0]
    assert (only["text"], only["logprobs"]["text_offset"]) == (text, offsets)


def test_special_tokens_have_their_bytes(model):
    label = labeller(model)
    for token_id in model.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|end|>"]):
        assert label.is_special(token_id) and label.bytes(token_id) == label(token_id).encode()


def test_tokens_are_named_by_id_where_that_is_asked_for(server):
    fields = {"temperature": 0, "return_tokens_as_token_ids": True, "return_token_ids": True, "max_tokens": 3}
    choice = server.post(prompt="Hello", logprobs=2, **fields).json()["choices"][0]
    names = [f"token_id:{i}" for i in choice["token_ids"]]
    assert choice["logprobs"]["tokens"] == names
    assert all(name in top for name, top in zip(names, choice["logprobs"]["top_logprobs"]))
    choice = server.post(CHAT, messages=HI, logprobs=True, top_logprobs=1, **fields).json()["choices"][0]
    told = choice["logprobs"]["content"]
    assert [one["token"] for one in told] == [f"token_id:{i}" for i in choice["token_ids"]]
    assert all(one["top_logprobs"][0]["token"].startswith("token_id:") for one in told)
    assert server.service.label.bytes(choice["token_ids"][0]) == bytes(told[0]["bytes"])


@pytest.mark.parametrize(
    "options, in_events, at_end",
    [
        ({"include_usage": True, "continuous_usage_stats": True}, True, True),
        ({"continuous_usage_stats": True}, True, True),
        ({"include_usage": True, "continuous_usage_stats": False}, False, True),
        ({"include_usage": False, "continuous_usage_stats": True}, False, False),
        ({"include_usage": None}, False, False),
    ],
)
def test_usage_in_streams(server, client, options, in_events, at_end):
    events = list(
        client.completions.create(model="tiny", prompt="Hi", max_tokens=2, stream=True, stream_options=options)
    )
    told = [event for event in events if event.choices]
    assert all((event.usage is not None) == in_events for event in told)
    assert (len(events) > len(told)) == at_end and (not at_end or events[-1].usage.completion_tokens >= 1)


def test_fields_of_one_endpoint_pass_at_others_where_they_ask_for_nothing(server):
    for fields in ({"echo": False}, {"n": 1}, {"best_of": 1}, {"show_branches": False}, {"unheard_of": None}):
        assert server.post(RESPONSES, input="Hi", max_output_tokens=2, **fields).status_code == 200, fields
        assert server.post(CHAT, messages=HI, max_tokens=2, **fields).status_code == 200, fields
    error = server.post(CHAT, messages=HI, echo=True).json()["error"]
    assert error["param"] == "echo" and "/v1/completions" in error["message"]
    error = server.post(RESPONSES, input="Hi", n=2).json()["error"]
    assert error["param"] == "n"


def test_answers_have_the_names_that_clients_tell_them_by(server, client):
    made = [
        client.completions.create(model="tiny", prompt="a", max_tokens=1),
        client.chat.completions.create(model="tiny", messages=HI, max_tokens=1),
        client.responses.create(model="tiny", input="a", max_output_tokens=1),
    ]
    for answer, begin in zip(made, ("cmpl-", "chatcmpl-", "resp_")):
        assert answer.id.startswith(begin)
    assert made[0].system_fingerprint == made[1].system_fingerprint is not None
    assert next(iter(client.completions.create(model="tiny", prompt="a", stream=True))).system_fingerprint


def test_an_address_without_v1_will_do(server):
    assert http.get(server.base + "/models").json() == http.get(server.base + "/v1/models").json()
    assert http.get(server.base + "/models/tiny").json()["id"] == "tiny"
    assert server.post("/chat/completions", messages=HI, max_tokens=1).status_code == 200
    assert server.post("//completions/", prompt="a", max_tokens=1).status_code == 200
    assert server.post("/completion", prompt="a").status_code == 404
    assert 'path="/v1/models"' in http.get(server.base + "/metrics").text.replace('route="', 'path="')


def sent(server, data, path=COMPLETIONS, **headers):
    return http.post(
        server.base + path,
        content=data,
        headers={"content-type": "application/json"} | headers,
    )


BODY = {"prompt": "a", "max_tokens": 2, "temperature": 0, "ignore_eos": True}


@pytest.mark.parametrize(
    "fields", ['"max_tokens": 3.0, "seed": 1e10', '"n": 2.0, "top_k": 5.0, "logprobs": 2.0', '"prompt": [97.0, 98]']
)
def test_a_whole_number_may_be_written_with_a_point(server, fields):
    answer = sent(server, f'{{"prompt": "a", "max_tokens": 2, {fields}}}'.encode())
    assert answer.status_code == 200, answer.text
    error = sent(server, b'{"prompt": "a", "max_tokens": 2.5}').json()["error"]
    assert error["param"] == "max_tokens" and "2.5" in error["message"]


@pytest.mark.parametrize("half", [rb'"\ud800"', rb'"a\ud83d"', rb'"\udfff"', rb'["a", "\ud83d b"]'])
@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "stop", "user", "model"])
def test_half_a_character_is_called_so(server, name, half):
    answer = sent(server, b'{"prompt": "a", "max_tokens": 1, "%s": %s}' % (name.encode(), half))
    assert answer.status_code == 400 and "half a character" in answer.json()["error"]["message"]


def test_bodies_as_clients_pack_them(server):
    plain, tail = json.dumps(BODY).encode(), b'"max_tokens": 1}'
    want = sent(server, plain).json()["choices"]
    two = gzip.compress(plain[:20]) + gzip.compress(plain[20:])
    for data, encoding in (
        (b"\xef\xbb\xbf" + plain, ""),
        (gzip.compress(plain), "gzip, identity"),
        (two, "GZip"),
    ):
        answer = sent(server, data, **{"content-encoding": encoding})
        assert answer.status_code == 200 and answer.json()["choices"] == want, answer.text
    bombs = gzip.compress(b'{"prompt": "') + gzip.compress(b"a" * (2 << 20)) + gzip.compress(tail)
    assert sent(server, bombs, **{"content-encoding": "gzip"}).status_code == 413
    assert sent(server, two[:-5], **{"content-encoding": "gzip"}).status_code == 400
    assert sent(server, gzip.compress(plain), **{"content-encoding": "gzip, gzip"}).status_code == 415


@pytest.mark.parametrize(
    "path, fields, param",
    [
        (COMPLETIONS, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        (COMPLETIONS, {"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        (COMPLETIONS, {"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (COMPLETIONS, {"prompt": "a", "echo": True, "trace": 1}, "echo"),
        (CHAT, {"messages": HI, "max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"messages": HI, "max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        (CHAT, {"messages": HI, "top_logprobs": 2}, "top_logprobs"),
        (
            CHAT,
            {"messages": HI, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        (RESPONSES, {"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        (RESPONSES, {"input": "a", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        (RESPONSES, {"input": "a", "text": {"format": 5}}, "text.format"),
        (RESPONSES, {"input": "a", "text": {"format": {"type": "grammar"}}}, "text.format"),
        (RESPONSES, {"input": "a", "include": ["message.output_text.logprobs", "nothing"]}, "include"),
        (
            RESPONSES,
            {"input": [*HI, {"type": "function_call_output", "call_id": "c", "output": 5}]},
            "input[1].content",
        ),
        (RESPONSES, {"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].tool_calls[0]"),
        (
            RESPONSES,
            {"input": [*HI, {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[1].content[0]",
        ),
        ("/tokenize", {}, "prompt"),
    ],
)
def test_contradictions_have_the_field_to_blame(server, path, fields, param):
    answer = server.post(path, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert "messages[" not in error["message"] and "[0][0]" not in error["message"]


def test_calls_stand_with_the_text_that_was_said_before_them(model):
    """Items of a response are parts of one turn of the assistant."""
    template = CHATML.replace(
        "{{ message.content }}",
        "{{ message.content }}{% for c in message.tool_calls or [] %}+{{ c.function.name }}{% endfor %}",
    )
    calls = [
        {"type": "function_call", "call_id": f"c{n}", "name": name, "arguments": "{}"} for n, name in enumerate("fg")
    ]
    outputs = [{"type": "function_call_output", "call_id": f"c{n}", "output": f"out{n}"} for n in range(2)]
    items = [*HI, {"role": "assistant", "content": "Calling"}, *calls, *outputs]
    with serving(make_model(template=template)) as running:
        answer = running.post(RESPONSES, input=items, max_output_tokens=1)
        assert answer.status_code == 200, answer.text
        turns = [
            *HI,
            {
                "role": "assistant", "content": "Calling",
                "tool_calls": [
                    {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": "{}"}}
                    for n, name in enumerate("fg")
                ],
            },
            *({"role": "tool", "tool_call_id": f"c{n}", "content": f"out{n}"} for n in range(2)),
        ]  # fmt: skip
        as_chat = running.post(CHAT, messages=turns, max_tokens=1)
    assert answer.json()["usage"]["input_tokens"] == as_chat.json()["usage"]["prompt_tokens"]
    assert "tool_calls" not in items[1]


def test_what_is_empty_in_a_message_says_nothing(server):
    for more in ({"prefix": False}, {"partial": False, "extra": {}}, {"attachments": [], "note": ""}):
        assert server.post(CHAT, messages=[{**HI[0], **more}], max_tokens=1).status_code == 200, more
    for more in ({"prefix": True}, {"extra": {"a": 1}}, {"attachments": ["a"]}):
        error = server.post(CHAT, messages=[{**HI[0], **more}], max_tokens=1).json()["error"]
        assert error["param"] == f"messages[0].{next(iter(more))}"


def test_variables_of_a_template_may_be_lists_and_objects():
    template = CHATML + "{% for t in xml_tools or [] %}{{ t.name }}{{ 1 // t.by }}{% endfor %}"
    with serving(make_model(template=template)) as running:
        plain = running.post(CHAT, messages=HI, max_tokens=1).json()["usage"]["prompt_tokens"]
        tools = {"xml_tools": [{"name": "f", "by": 1}]}
        answer = running.post(CHAT, messages=HI, max_tokens=1, chat_template_kwargs=tools)
        assert answer.json()["usage"]["prompt_tokens"] == plain + 2
        tools["xml_tools"][0]["by"] = 0
        error = running.post(CHAT, messages=HI, max_tokens=1, chat_template_kwargs=tools)
        assert error.status_code == 400 and "refuses the conversation" in error.json()["error"]["message"]


def test_pages_of_other_origins_see_the_headers_that_clients_read(model):
    origin = {"origin": "https://a.example"}
    with serving(model, cors_origins=("https://a.example",)) as running:
        answer = http.get(running.base + "/v1/models", headers=origin)
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
