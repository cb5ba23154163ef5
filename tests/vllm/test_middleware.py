"""The middleware in front of a small application that writes down what it gets."""

import asyncio
import json

import pytest

from counterpoint.vllm.middleware import GuidanceMiddleware

CONTEXT_LEN = 20


class Server:
    """Answers like vLLM: `/tokenize` gives one token a character, the rest what `answer` says."""

    def __init__(self, answer=b'{"usage": {"completion_tokens": 3}}', content_type=b"application/json", parts=1):
        self.seen, self.questions = None, []
        self.answer, self.content_type, self.parts = answer, content_type, parts

    def written(self, message):
        return f"{message['role'][0]}:{message['content']}|"

    async def __call__(self, scope, receive, send):
        body, self.headers = (await receive())["body"], scope["headers"]
        assert dict(scope["headers"])[b"content-length"] == str(len(body)).encode()
        status, content_type, answer = 200, self.content_type, self.answer
        if scope["path"] == "/tokenize":
            asked = json.loads(body)
            self.questions.append(asked)
            text = asked.get("prompt") or "".join(self.written(message) for message in asked["messages"])
            status = 401 if dict(scope["headers"]).get(b"authorization") == b"wrong" else 200
            answer = json.dumps({"tokens": list(text.encode()), "max_model_len": CONTEXT_LEN}).encode()
            content_type = b"application/json"
        else:
            self.seen = json.loads(body)
        headers = [(b"content-type", content_type), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        size = -(-len(answer) // self.parts)
        for start in range(0, len(answer), size):
            piece = {"body": answer[start : start + size], "more_body": start + size < len(answer)}
            await send({"type": "http.response.body", **piece})


def post(server, fields, path="/v1/completions", headers=()):
    body, sent = json.dumps(fields).encode(), []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers],
    }
    asyncio.run(GuidanceMiddleware(server)(scope, receive, send))
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def test_a_request_without_guidance_passes_as_it_is():
    server = Server()
    fields = {"prompt": "a", "vllm_xargs": {"theirs": 1}}
    assert post(server, fields) == (200, server.answer)
    assert server.seen == fields


def test_fields_become_xargs_with_token_ids():
    server = Server()
    fields = {"guidance_scale": 3, "negative_prompt": "no", "guidance": {"branches": [{"prompt": "b", "weight": 0.5}]}}
    status, answer = post(server, {"prompt": "a", "vllm_xargs": {"theirs": 1}, **fields})
    args = server.seen.pop("vllm_xargs")
    assert server.seen == {"prompt": "a"}
    assert json.loads(args.pop("guidance")) == {"branches": [{"weight": 0.5, "prompt_ids": [98]}]}
    assert args == {"theirs": 1, "guidance_scale": 3, "negative_prompt_ids": [110, 111]}
    assert json.loads(answer)["usage"] == {"completion_tokens": 3, "branch_tokens": 2 + 1 + 2 * 3}


def test_a_chats_negative_swaps_the_system_message_in_the_same_template():
    server = Server()
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    chat = {"messages": messages, "guidance_scale": 2, "chat_template": "t", "tools": [1], "reasoning_effort": "low"}
    assert post(server, {**chat, "negative_prompt": "no"}, "/v1/chat/completions")[0] == 200
    asked, own = server.questions
    assert own["messages"] == messages
    assert asked.pop("messages") == [{"role": "system", "content": "no"}, messages[1]]
    assert asked == {"chat_template": "t", "tools": [1], "chat_template_kwargs": {"reasoning_effort": "low"}}
    server = Server()
    assert post(server, {"messages": messages[1:], "negative_prompt": "x"}, "/v1/chat/completions")[0] == 200
    assert server.questions[0]["messages"] == [{"role": "system", "content": "x"}, messages[1]]


def test_negative_messages_and_messages_of_a_branch():
    server = Server()
    given = [{"role": "u", "content": "no"}]
    fields = {"messages": given, "negative_messages": given, "guidance": {"branches": [{"messages": given}]}}
    assert post(server, fields, "/v1/chat/completions")[0] == 200
    assert [asked["messages"] for asked in server.questions] == [given, given]


def test_a_template_that_drops_the_system_message_is_told_of():
    server = Server()
    server.written = lambda message: message["content"] if message["role"] == "user" else ""
    fields = {"messages": [{"role": "user", "content": "hi"}], "negative_prompt": "no"}
    status, answer = post(server, fields, "/v1/chat/completions")
    assert (status, server.seen) == (400, None)
    assert "shows no system message" in json.loads(answer)["error"]["message"]


def test_another_name_of_the_scale():
    server = Server()
    assert post(server, {"prompt": "a", "cfg_scale": 2})[0] == 200
    assert server.seen["vllm_xargs"] == {"guidance_scale": 2}


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
        ("/v1/completions", {"guidance_scale": "x"}, "use a number"),
        ("/v1/completions", {"negative_prompt": ""}, "not empty"),
        ("/v1/completions", {"negative_prompt": "n" * 20}, "20 tokens; the model's context has 20"),
        ("/v1/completions", {"negative_messages": [{"role": "user", "content": "a"}]}, "belongs to"),
        ("/v1/completions", {"negative_prompt": "a", "guidance_scale": 1}, "no effect"),
        ("/v1/completions", {"guidance_scale": 2, "use_beam_search": True}, "beam search"),
        ("/v1/completions", {"guidance_scale": 2, "vllm_xargs": {"guidance_scale": 2}}, "given twice"),
        ("/v1/completions", {"guidance_scale": 2, "cfg_scale": 2}, "keep one"),
        ("/v1/completions", {"guidance": {"branches": [{"suffix": "a"}]}}, "'suffix', which vLLM can't guide by"),
        ("/v1/chat/completions", {"negative_messages": [], "messages": []}, "use a list of messages"),
        ("/v1/responses", {"guidance_scale": 2}, "/v1/responses can't be guided"),
    ],
)
def test_what_is_refused(path, fields, reason):
    server = Server()
    status, answer = post(server, {"prompt": "a", **fields}, path)
    assert (status, server.seen) == (400, None)
    assert reason in json.loads(answer)["error"]["message"]


def test_the_servers_own_refusal_is_passed_on():
    server = Server()
    assert post(server, {"prompt": "a", "negative_prompt": "no"}, headers=[(b"authorization", b"wrong")])[0] == 401
    assert server.seen is None
