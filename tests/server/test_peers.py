"""What clients that were written for other servers send, and what they look for in the answer."""

import httpx
import pytest

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


def test_an_address_without_v1_will_do(server):
    assert httpx.get(server.base + "/models").json() == httpx.get(server.base + "/v1/models").json()
    assert httpx.get(server.base + "/models/tiny").json()["id"] == "tiny"
    assert server.post("/chat/completions", messages=HI, max_tokens=1).status_code == 200
    assert server.post("//completions/", prompt="a", max_tokens=1).status_code == 200
    assert server.post("/completion", prompt="a").status_code == 404
    assert 'path="/v1/models"' in httpx.get(server.base + "/metrics").text.replace('route="', 'path="')
