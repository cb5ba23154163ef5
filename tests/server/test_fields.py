"""What clients really send: fields at neutral values, our own answers as history, foreign and unknown fields."""

import json
import warnings

import httpx
import pytest
from patience import PATIENCE_S
from server.conftest import make_model, serving
from wire.bodies import REFUSED, SAID

import counterpoint as cp
from counterpoint import contexts
from counterpoint.engine import prepare
from counterpoint.server.bodies import read_fields
from counterpoint.server.errors import ApiError
from counterpoint.server.limits import Limits
from counterpoint.server.reading import read_chat, read_completion
from counterpoint.server.schema import ChatBody, CompletionBody
from counterpoint.server.work import Served
from counterpoint.wire import FOREIGN, OWN, UNTOUCHING

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PLAIN = {COMPLETIONS: {"prompt": "Hello", "max_tokens": 2}, CHAT: {"messages": MESSAGES, "max_tokens": 2}}
#: neutral values that contradict the plain request only because they replace one of its fields
REPLACING = ("messages", "prompt")


@pytest.fixture(scope="module")
def served(model):
    return Served(model, Limits(), {})


def read(served, fields, is_chat):
    if is_chat:
        return read_chat(served, read_fields(ChatBody, json.dumps({"messages": MESSAGES, **fields}).encode()))
    return read_completion(served, read_fields(CompletionBody, json.dumps({"prompt": "Hello", **fields}).encode()))


@pytest.mark.parametrize("fields, is_chat, said", SAID, ids=lambda value: str(value)[:60])
def test_the_server_reads_bodies_as_the_wire_says(served, model, fields, is_chat, said):
    sampled = {"temperature": 1.0, "logprobs": None, "max_tokens": 16}
    request = read(served, fields | {"max_tokens": 16}, is_chat).requests[0]
    prompt, branches = "Hello", list(said.branches)
    if is_chat:
        how = {"branches": branches} if branches else {}
        prompt = contexts.chat(model, MESSAGES, **how) if branches else contexts.chat_prompt(model, MESSAGES)
        branches = list(prompt.branches) if branches else []
        prompt = prompt.prompt if branches else prompt
    want = prepare(model, prompt, branches=branches or None, guide=said.guide, **sampled)
    assert (request.prompt_ids, request.branches) == (want.prompt_ids, want.branches)
    assert said.guide is None or request.guide == want.guide


@pytest.mark.parametrize("fields, is_chat, param, words", REFUSED, ids=lambda value: str(value)[:60])
def test_the_server_refuses_bodies_as_the_wire_says(served, fields, is_chat, param, words):
    with pytest.raises(ApiError) as caught:
        read(served, fields, is_chat)
    assert caught.value.status == 400 and caught.value.param.startswith(param.partition(".")[0])


def neutral():
    for path, kind in ((COMPLETIONS, CompletionBody), (CHAT, ChatBody)):
        for name, values in OWN.items():
            for value in (*values, None):
                yield path, {name: value}
        for name in sorted(set(FOREIGN) - set(kind.model_fields)):
            yield from ((path, {name: value}) for value in (*FOREIGN[name].neutral, None))
        for name in sorted(UNTOUCHING):
            yield path, {name: {"a": "b"}}
        yield path, {"a_field_that_nobody_knows": None}
    for fields in (
        {"logprobs": False, "top_logprobs": 0},
        {"max_tokens": 2, "max_completion_tokens": 2},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"tool_choice": "auto"},
        {"add_generation_prompt": True},
        {"reasoning_effort": "medium"},
        {"n": None, "stream": False, "stream_options": None},
    ):
        yield CHAT, fields
    for fields in ({"best_of": 1}, {"suffix": None, "echo": False, "logprobs": None}, {"n": 1, "best_of": 1}):
        yield COMPLETIONS, fields


def test_what_asks_for_nothing_changes_nothing(server):
    with httpx.Client(base_url=server.base, timeout=PATIENCE_S) as client:
        plain = {p: client.post(p, json=b | {"temperature": 0}).json()["choices"] for p, b in PLAIN.items()}
        for path, fields in neutral():
            answer = client.post(path, json=PLAIN[path] | {"temperature": 0} | fields)
            assert answer.status_code == 200, (path, fields, answer.text)
            assert answer.json()["choices"] == plain[path], (path, fields)


def test_foreign_fields_that_ask_for_something_are_refused_by_name(server):
    with httpx.Client(base_url=server.base, timeout=PATIENCE_S) as client:
        for path, body in PLAIN.items():
            for name in FOREIGN:
                answer = client.post(path, json=body | {name: "something else"})
                error = answer.json()["error"]
                assert answer.status_code == 400 and error["param"] == name and name in error["message"], answer.text


def test_all_mistakes_in_fields_are_named_at_once(server):
    error = server.post(prompt="a", promt=1, temprature=2).json()["error"]
    assert "'promt', 'temprature'" in error["message"] and error["code"] == "unknown_parameter"
    error = server.post(prompt="a", logit_bias={"x": 1, "50": 2, "-3": 1}).json()["error"]
    assert "'x', '-3'" in error["message"] and error["param"] == "logit_bias"
    error = server.post(prompt="a", logit_bias={"50": 101}).json()["error"]
    assert "'50': 101" in error["message"]
    error = server.post(prompt="a", logit_bias={"50": 1, "51": None}).json()["error"]
    assert "logit_bias.51 is None" in error["message"] and error["param"] == "logit_bias.51"
    error = server.post(prompt="a", logit_bias={"050": 1}).json()[
        "error"
    ]  # another spelling of a key that may be there
    assert "'050'" in error["message"]
    error = server.post(prompt="a", temperature="hot", top_p=3).json()["error"]
    assert "temperature is 'hot'" in error["message"] and "top_p is 3" in error["message"]


def test_stop_texts_that_say_nothing_stop_nothing(server):
    plain = server.complete(max_tokens=20)["choices"]
    end = plain[0]["text"][3]
    assert server.complete(max_tokens=20, stop=["", None])["choices"] == plain
    stopped = server.complete(max_tokens=20, stop=[end])["choices"]
    assert server.complete(max_tokens=20, stop=["", end, None])["choices"] == stopped != plain


@pytest.mark.parametrize("is_ids", [False, True])
def test_each_prompt_has_its_own_of_a_list_of_negatives(server, is_ids):
    prompts, negatives = ["Hello there", "Two fish", "Hello there"], ["A", "Some other words", "B"]
    name = "negative_prompt_ids" if is_ids else "negative_prompt"
    given = [list(text.encode()) for text in negatives] if is_ids else negatives
    how = {"guidance_scale": 3, "logprobs": 2, "echo": True}
    alone = [server.complete(prompt, **how, **{name: one}) for prompt, one in zip(prompts, given)]
    made = server.complete(prompts, **how, **{name: given})
    texts = [choice["text"] for choice in made["choices"]]
    assert texts == [one["choices"][0]["text"] for one in alone] and len(set(texts)) == 3
    scores = [choice["logprobs"]["token_logprobs"] for choice in made["choices"]]
    assert [s[1:] for s in scores] == [
        pytest.approx(o["choices"][0]["logprobs"]["token_logprobs"][1:], abs=1e-4) for o in alone
    ]
    one = server.complete(prompts[:2], **how, **{name: given[:1]})["choices"]
    assert one[0]["text"] == texts[0] and one[1]["text"] not in texts
    error = server.post(prompt=prompts, **{name: given[:2]}).json()["error"]
    assert error["param"] == name and "2 entries and there are 3 prompts; give one for each" in error["message"]


def test_a_request_that_leaves_no_token_is_the_clients_mistake(server, model):
    bans = {str(token_id): -100 for token_id in range(model.vocab_size)}
    failed = server.service.metrics.failures._value.get()
    for fields in ({}, {"negative_prompt": "no"}, {"guided_choice": ["yes", "no"]}):
        answer = server.post(prompt="a", logit_bias=bans, **fields)
        assert answer.status_code == 400 and "no token is left to choose" in answer.json()["error"]["message"]
        event = server.post(prompt="a", logit_bias=bans, stream=True, **fields).text
        assert '"type":"invalid_request_error"' in event and "no token is left to choose" in event
    assert server.service.metrics.failures._value.get() == failed


@pytest.mark.parametrize(
    "fields, param, code",
    [
        ({"prompt": "a" * 600}, "prompt", "context_length_exceeded"),
        ({"prompt": "a", "negative_prompt": "a" * 600}, "negative_prompt", "context_length_exceeded"),
        (
            {"prompt": "a", "guidance": {"branches": [{"prompt": "b"}, {"prompt": "a" * 600}]}},
            "guidance.branches[1]",
            "context_length_exceeded",
        ),
        ({"prompt": "a", "stop_token_ids": [3, 100000]}, "stop_token_ids", None),
        ({"prompt": "a", "logit_bias": {"100000": 1}}, "logit_bias", None),
        ({"prompt": "a", "min_tokens": 20}, "min_tokens", None),
        ({"prompt": "a", "stop": "a" * 5000}, "stop", "invalid_value"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of", "invalid_value"),
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
    ],
)
def test_errors_name_the_field_and_have_their_code(server, fields, param, code):
    answer = server.post(**fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error


def test_limits_of_the_server_have_the_code_too(model):
    with serving(model, limits=Limits(max_prompt_tokens=20)) as running:
        error = running.post(prompt="short", negative_prompt="a" * 30).json()["error"]
    assert (error["param"], error["code"]) == ("negative_prompt", "context_length_exceeded")


@pytest.mark.parametrize(
    "name", ["chat_template", "tools", "tokenize", "documents", "continue_final_message", "messages"]
)
def test_no_client_brings_what_runs_the_template(server, name):
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    answer = server.post(CHAT, messages=MESSAGES, chat_template_kwargs={name: loop})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == f"chat_template_kwargs.{name}"
    assert server.post(CHAT, messages=MESSAGES, chat_template=loop).json()["error"]["param"] == "chat_template"


def test_variables_of_the_template_reach_it():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ mood }}{{ reasoning_effort }}"
    with serving(make_model(template=template)) as running:
        asked = {
            "messages": MESSAGES,
            "max_tokens": 1,
            "chat_template_kwargs": {"mood": "!!"},
            "return_token_ids": True,
        }
        answer = running.post(CHAT, **asked, reasoning_effort="high").json()
        text = running.post("/detokenize", tokens=answer["prompt_token_ids"]).json()["prompt"]
    assert text == "Be kind.Hi!!high"


def test_every_answer_can_be_sent_back(server):
    body = {"messages": MESSAGES, "max_tokens": 3, "temperature": 0}
    asked = [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 2}, {"return_token_ids": True}, {"trace": 2}]
    for fields in asked:
        for choice in server.post(CHAT, **body, **fields).json()["choices"]:
            history = [*MESSAGES, choice["message"], {"role": "user", "content": "And then?"}]
            assert server.post(CHAT, **body | {"messages": history}).status_code == 200


@pytest.mark.parametrize(
    "message, param",
    [
        ({"role": "user", "content": None, "tool_calls": []}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]"),
        ({"role": "usr", "content": "a"}, "messages[0].role"),
        ({"role": "user", "content": "a", "colour": 3}, "messages[0].colour"),
    ],
)
def test_errors_of_messages_name_their_place(server, message, param):
    assert server.post(CHAT, messages=[message]).json()["error"]["param"] == param


def test_a_system_message_alone_and_instructions_of_both_kinds(server):
    assert server.post(CHAT, messages=MESSAGES[:1], max_tokens=1).status_code == 200
    both = [{"role": "developer", "content": "Be brief."}, *MESSAGES]
    body = {"max_tokens": 1, "negative_prompt": "Be rude.", "show_branches": True}
    branches = server.post(CHAT, messages=both, **body).json()["choices"][0]["branches"]
    assert branches[0]["text"].startswith("<|im_start|>system\nBe brief.\n\nBe kind.<|im_end|>")
    assert branches[1]["text"].startswith("<|im_start|>system\nBe rude.<|im_end|>\n<|im_start|>user")


@pytest.mark.parametrize("scale", [1, 1.0])
@pytest.mark.parametrize("more", [{}, {"guidance": {"plausibility": 0.1}}, {"guidance": {"start": 1, "gate": 2.0}}])
def test_a_scale_of_one_is_off(server, scale, more):
    plain = server.complete("Hello")["choices"]
    assert server.complete("Hello", negative_prompt="Bye", guidance_scale=scale, **more)["choices"] == plain


def test_no_warning_is_left_to_the_log(server):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        server.post(prompt="Hello", negative_prompt="Hello", guidance_scale=2)
        server.post(prompt="Hello", negative_prompt="Hello", guidance_scale=1)
    assert not [w for w in seen if issubclass(w.category, cp.errors.NoEffectWarning)]


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_as_many_tokens_as_fit(server, path):
    asked = {**PLAIN[path], "max_tokens": -1, "temperature": 0, "ignore_eos": True}
    usage = server.post(path, **asked).json()["usage"]
    assert usage["total_tokens"] == 512
    (only,) = server.post(path, **asked | {"max_tokens": 7}).json()["choices"]
    assert only["finish_reason"] == "length"
    assert server.post(CHAT, messages=MESSAGES, max_tokens=0).status_code == 400
