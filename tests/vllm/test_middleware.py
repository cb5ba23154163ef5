"""The middleware in front of a small application that writes down what it gets."""

import asyncio
import json

import pytest
from wire.bodies import REFUSED, SAID

from counterpoint.contexts.chat import settled
from counterpoint.errors import PromptError
from counterpoint.guide import Branch
from counterpoint.vllm.middleware import GuidanceMiddleware
from counterpoint.vllm.params import read
from counterpoint.vllm.rendering import Refused

CONTEXT_LEN = 30


def ids(text):
    if len(text) >= CONTEXT_LEN:
        raise Refused(400, f"{len(text)} tokens; the context has {CONTEXT_LEN}")
    return list(text.encode())


def written(messages):
    return "".join(f"{message['role'][0]}:{message['content']}|" for message in messages)


class Written:
    """In the place of vLLM's rendering: a token a character, and a template that a test can change."""

    def __init__(self, app, request):
        self.write, self.seen = app.write, app.rendered
        self.seen.append(request)

    async def conversations(self, messages, contexts):
        prompt, made = settled(self.write, messages, contexts)
        return prompt, ids(self.write(prompt)), [ids(self.write(m)) if isinstance(m, list) else None for m in made]

    async def text(self, text):
        return ids(text)


class Server:
    """Answers like vLLM: what `answer` says, or 401 where the key is wrong, before it reads the body."""

    def __init__(self, answer=b'{"usage": {"completion_tokens": 3}}', content_type=b"application/json", parts=1):
        self.seen, self.rendered, self.write = None, [], written
        self.answer, self.content_type, self.parts = answer, content_type, parts

    async def __call__(self, scope, receive, send):
        status, self.headers = 200, scope["headers"]
        if dict(self.headers).get(b"authorization") == b"wrong":
            status = 401
        else:
            self.seen = json.loads((await receive())["body"])
        headers = [(b"content-type", self.content_type), (b"content-length", str(len(self.answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        size = -(-len(self.answer) // self.parts)
        for start in range(0, len(self.answer), size):
            piece = {"body": self.answer[start : start + size], "more_body": start + size < len(self.answer)}
            await send({"type": "http.response.body", **piece})


def post(server, fields, path="/v1/completions", headers=(), kind=b"application/json"):
    body, sent = fields if isinstance(fields, bytes) else json.dumps(fields).encode(), []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "app": server,
        "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers],
    }
    asyncio.run(GuidanceMiddleware(server, Written)(scope, receive, send))
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def test_a_request_without_guidance_passes_as_it_is():
    server = Server()
    fields = {"prompt": "a", "vllm_xargs": {"theirs": 1}}
    assert post(server, fields) == (200, server.answer)
    assert server.seen == fields


def test_fields_become_xargs_with_token_ids():
    server = Server()
    fields = {"guidance_scale": 3, "negative_prompt": "no", "guidance": {"branches": [{"prompt": "b", "weight": 0.5}]}}
    _, answer = post(server, {"prompt": "a", "vllm_xargs": {"theirs": 1}, **fields})
    args = server.seen.pop("vllm_xargs")
    assert server.seen == {"prompt": "a"}
    branches = [{"prompt_ids": [110, 111]}, {"prompt_ids": [98], "weight": 0.5}]
    assert json.loads(args.pop("guidance")) == {"scale": 3.0, "branches": branches}
    assert args == {"theirs": 1}
    assert json.loads(answer)["usage"] == {"completion_tokens": 3, "branch_tokens": 2 + 1 + 2 * 3}


@pytest.mark.parametrize(("fields", "is_chat", "said"), SAID)
def test_what_the_wire_says(fields, is_chat, said):
    """The engine reads what the wire says, whichever surface it came by."""
    server = Server()
    prompt = {"messages": MESSAGES} if is_chat else {"prompt": "a"}
    assert post(server, {**prompt, **fields}, "/v1/chat/completions" if is_chat else "/v1/completions")[0] == 200
    plan = read(server.seen.get("vllm_xargs"))
    if said.guide is None:
        assert plan is None and {**prompt} == {name: server.seen[name] for name in prompt}
        return
    assert (plan.guide, len(plan.contexts)) == (said.guide, len(said.branches) or any(plan.weights))
    weights = said.guide.weights(said.branches or [Branch(None)])
    assert plan.weights == tuple(weight for weight in weights if weight)


@pytest.mark.parametrize(("fields", "is_chat", "param", "words"), REFUSED)
def test_what_the_wire_refuses(fields, is_chat, param, words):
    server = Server()
    prompt = {"messages": MESSAGES} if is_chat else {"prompt": "a"}
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    for body in ({**prompt, **fields}, {**prompt, "vllm_xargs": fields}):
        status, answer = post(server, body, path)
        error = json.loads(answer)["error"]
        assert (status, server.seen, error["param"]) == (400, None, param)
        assert words in error["message"]


def test_a_list_of_negatives_is_one_for_all_or_refused():
    server = Server()
    for fields in (
        {"negative_prompt": ["no"]},
        {"negative_prompt": ["no", "no"]},
        {"negative_prompt_ids": [[110, 111]]},
    ):
        assert post(server, {"prompt": ["a", "b"], **fields})[0] == 200
        assert branch_texts(server) == ["no"]
    server = Server()
    status, answer = post(server, {"prompt": ["a", "b"], "negative_prompt": ["no", "never"]})
    error = json.loads(answer)["error"]
    assert (status, server.seen, error["param"]) == (400, None, "negative_prompt")
    assert "send a request for each" in error["message"]


CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]


def branch_texts(server):
    return ["".join(map(chr, context)) for context in read(server.seen["vllm_xargs"]).contexts]


def test_a_chats_negative_is_the_whole_request_with_another_system_message():
    server = Server()
    other = {
        "chat_template": "t",
        "tools": [1],
        "reasoning_effort": "none",
        "truncate_prompt_tokens": 9,
        "max_tokens": 3,
    }
    assert post(server, {"messages": MESSAGES, **other, "guidance_scale": 2, "negative_prompt": "no"}, CHAT)[0] == 200
    assert server.rendered == [{"messages": MESSAGES, **other}]
    assert branch_texts(server) == ["s:no|u:hi|"]
    assert {name: server.seen[name] for name in other} == other
    assert post(server, {"messages": MESSAGES[1:], "negative_prompt": "x"}, CHAT)[0] == 200
    assert branch_texts(server) == ["s:x|u:hi|"]


def test_negative_messages_and_messages_of_a_branch():
    server = Server()
    given = [{"role": "user", "content": "no"}]
    fields = {"messages": MESSAGES, "negative_messages": given, "guidance": {"branches": [{"messages": given}]}}
    assert post(server, fields, CHAT)[0] == 200
    assert branch_texts(server) == ["u:no|", "u:no|"]


@pytest.mark.parametrize("refuses", [False, True])
def test_where_the_template_shows_no_system_message_it_goes_into_the_users_turn(refuses):
    def write(messages):
        if refuses and any(message["role"] == "system" for message in messages):
            raise PromptError("no system messages")
        return written(message for message in messages if message["role"] == "user")

    server = Server()
    server.write = write
    assert post(server, {"messages": MESSAGES, "negative_prompt": "no"}, CHAT)[0] == 200
    assert branch_texts(server) == ["u:no\n\nhi|"]
    assert server.seen["messages"] == [{"role": "user", "content": "be\n\nhi"}]


def test_a_message_that_the_template_leaves_out_is_told_of():
    server = Server()
    server.write = lambda messages: written(message for message in messages if message["role"] != "tool")
    fields = {"messages": [*MESSAGES, {"role": "tool", "content": "42"}], "negative_prompt": "no"}
    status, answer = post(server, fields, CHAT)
    assert (status, server.seen) == (400, None)
    assert "leaves out" in json.loads(answer)["error"]["message"]


def test_another_name_of_the_scale():
    server = Server()
    assert post(server, {"prompt": "a", "cfg_scale": 2})[0] == 200
    assert json.loads(server.seen["vllm_xargs"]["guidance"]) == {"scale": 2.0}


@pytest.mark.parametrize("kind", [b"application/JSON", b"Application/Json; charset=UTF-8", b"APPLICATION/JSON"])
def test_the_kind_of_content_in_any_letters(kind):
    server = Server()
    assert post(server, {"prompt": "a", "negative_prompt": "no"}, kind=kind)[0] == 200
    assert read(server.seen["vllm_xargs"]) is not None


@pytest.mark.parametrize(
    "deep", [b'{"prompt": "a", "negative_prompt": %s}', b'{"guidance": %s}', b'{"guidance": {}, "a": %s}', b"%s"]
)
def test_a_request_that_is_nested_deeply_is_no_failure(deep):
    server = Server()
    status, answer = post(server, deep % (b"[" * 100_000 + b"]" * 100_000))
    assert (status, server.seen) == (400, None)
    assert "nested too deeply" in json.loads(answer)["error"]["message"]


def test_a_body_that_is_no_object_is_vllms_to_refuse():
    for body in (b"[1]", b'"a"', b"3"):
        server = Server()
        post(server, body)
        assert server.seen == json.loads(body)


@pytest.mark.parametrize(
    ("headers", "name"), [((), b"unguided-"), (((b"X-Request-Id", b"theirs"),), b"unguided-theirs")]
)
def test_an_unguided_beam_search_says_so_in_its_id(headers, name):
    server = Server()
    assert post(server, {"prompt": "a", "use_beam_search": True}, headers=headers)[0] == 200
    given = [value for key, value in server.headers if key.lower() == b"x-request-id"]
    assert len(given) == 1
    assert given[0].startswith(name)
    assert post(server, {"prompt": "a"}, headers=headers)[0] == 200
    assert [value for key, value in server.headers if key.lower() == b"x-request-id"] == [v for _, v in headers]


@pytest.mark.parametrize("parts", [1, 2, 7, 1000])
def test_usage_in_a_stream(parts):
    events = [b'data: {"choices": [1]}', b'data: {"usage": {"completion_tokens": 4}}', b"data: [DONE]"]
    server = Server(b"\n\n".join(events) + b"\n\n", b"text/event-stream; charset=utf-8", parts)
    _, answer = post(server, {"prompt": "a", "negative_prompt": "no"})
    first, second, *rest = answer.split(b"\n\n")
    assert (first, rest) == (events[0], [events[2], b""])
    assert json.loads(second.removeprefix(b"data: "))["usage"]["branch_tokens"] == 2 + 4


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("/v1/completions", {"negative_prompt": "n" * 30}, "can't be read: 30 tokens; the context has 30"),
        ("/v1/completions", {"guidance_scale": 2, "use_beam_search": True}, "beam search"),
        ("/v1/completions", {"guidance_scale": 2, "vllm_xargs": {"guidance_scale": 2}}, "given twice"),
        ("/v1/completions", {"guidance_scale": 2, "vllm_xargs": [1]}, "vllm_xargs is [1]; use an object"),
        ("/v1/completions", {"guidance_scale": 2, "vllm_xargs": "x"}, "vllm_xargs is 'x'; use an object"),
        ("/v1/completions", {"guidance": {"branches": [{"suffix": "a"}]}}, "is a suffix, which vLLM can't guide by"),
        ("/v1/completions", {"negative_prompt": "a"}, "equals the prompt"),
        ("/v1/completions", {"negative_prompt_ids": [5, 6], "prompt": [5, 6]}, "equals the prompt"),
        ("/v1/completions", {"guidance": {"stop": 0}}, "it starts and stops at token 0"),
        (
            "/v1/completions",
            {"negative_prompt": "b", "guidance": {"start": 4, "stop": 4}},
            "starts and stops at token 4",
        ),
        ("/v1/chat/completions", {"negative_prompt": "be", "messages": MESSAGES}, "equals the prompt"),
        ("/v1/responses", {"guidance_scale": 2}, "/v1/responses can't be guided"),
    ],
)
def test_what_is_refused(path, fields, reason):
    server = Server()
    status, answer = post(server, {"prompt": "a", **fields}, path)
    assert (status, server.seen) == (400, None)
    assert reason in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize(
    "fields", [{"guidance_scale": 1, "negative_prompt": "b"}, {"negative_prompt": ""}, {"guidance": {}}]
)
def test_neutral_values_pass_as_unguided(fields):
    server = Server()
    for path in ("/v1/completions", "/v1/responses"):
        assert post(server, {"prompt": "a", **fields}, path)[0] == 200
        assert server.seen == {"prompt": "a"}


def test_a_list_of_prompts_is_refused_only_where_none_could_be_changed():
    server = Server()
    assert post(server, {"prompt": ["a", "b"], "negative_prompt": "a"})[0] == 200
    assert post(server, {"prompt": ["a", "a"], "negative_prompt": "a"})[0] == 400


def test_a_client_without_the_key_costs_nothing():
    server = Server()
    assert post(server, {"prompt": "a", "negative_prompt": "no"}, headers=[(b"authorization", b"wrong")])[0] == 401
    assert (server.seen, server.rendered) == (None, [])
