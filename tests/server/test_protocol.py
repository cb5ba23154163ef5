"""What clients and peers expect of the protocol: headers, paths, usage, numbers, echo, samples, tokens."""

import asyncio
import contextlib
import gzip
import json
import re
import sys
import threading
import zlib
from types import SimpleNamespace

import pytest
from patience import PATIENCE_S, http, wait_for
from server.conftest import make_model, serving

from counterpoint.engine import TokenLogprob
from counterpoint.server import readers
from counterpoint.server.answers import as_json
from counterpoint.server.endpoints import COMPLETIONS
from counterpoint.server.limits import Limits

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
ASKED = {"prompt": "Once upon", "max_tokens": 6, "temperature": 0, "ignore_eos": True}


def stream_of(running, path="/v1/completions", **body):
    with http.stream("POST", running.base + path, json=body | {"stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]", lines[-1]
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize(
    "guidance",
    [{"plausibility": 0.1}, {"space": "prob"}, {"plausibility": 1.0, "space": "prob"}, {"plausibility": 0.5}],
)
@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
def test_no_infinity_whatever_guidance_rules_out(server, path, guidance):
    fields = {"negative_prompt": "In the end", "guidance_scale": 3, "guidance": guidance, "temperature": 0.7, "seed": 1}
    top = {"logprobs": 20} if path != CHAT else {"logprobs": True, "top_logprobs": 20}
    asked = {"max_tokens": 6, **fields, **top, **({"messages": MESSAGES} if path == CHAT else {"prompt": "Once"})}
    answer = server.post(path, **asked, trace=20)
    assert answer.status_code == 200 and "Infinity" not in answer.text
    assert stream_of(server, path, **asked, trace=20)[-1]["choices"]


def test_a_banned_token_does_not_come(server):
    only = {"negative_prompt": "In", "guidance_scale": 2, "guidance": {"plausibility": 1.0}, "max_tokens": 1} | {
        "temperature": 1.0, "seed": 1,
    }  # fmt: skip
    free = server.complete("Once", **only, return_token_ids=True)["choices"][0]["token_ids"][0]
    banned = server.complete("Once", **only, return_token_ids=True, logit_bias={str(free): -100})["choices"][0]
    assert banned["token_ids"][0] != free


def test_two_tokens_with_one_label_keep_the_likelier(server):
    answer = COMPLETIONS.answer.__new__(COMPLETIONS.answer)
    answer.name_of = lambda token_id: "same" if token_id < 3 else "other"
    told = answer._top(TokenLogprob(3, -5.0, ((1, -0.5), (2, -1.5), (3, -5.0))))
    assert told == {"same": -0.5, "other": -5.0}


def test_bytes_and_offsets_of_half_characters(server, model):
    ids = model.encode("é a")
    answer = server.post(prompt=ids, max_tokens=0, echo=True, logprobs=0).json()["choices"][0]
    assert answer["logprobs"]["text_offset"] == [0, 0, 1, 2] and answer["text"] == "é a"
    halves = server.service.label
    assert [halves.bytes(i) for i in ids[:2]] == [b"\xc3", b"\xa9"] and halves(ids[0]) == "\\xc3"
    bias = {str(ids[0]): 100}
    chat = server.post(CHAT, messages=MESSAGES, max_tokens=1, logit_bias=bias, logprobs=True, temperature=0).json()
    assert chat["choices"][0]["logprobs"]["content"][0]["bytes"] == [0xC3]


@pytest.mark.parametrize("guided", [{}, {"negative_prompt": "In the end", "guidance_scale": 2.0}])
def test_echo_with_logprobs_scores_the_prompt(server, model, guided):
    """As the tokens would be scored if they had been written after the first."""
    ids = model.encode("Once upon a time")
    done = server.post(prompt=ids, echo=True, logprobs=1, max_tokens=1, temperature=0, **guided).json()["choices"][0]
    want = [None]
    for at in range(1, len(ids)):
        bias = {str(ids[at]): 100}
        told = server.post(
            prompt=ids[:at], max_tokens=1, temperature=0, logprobs=0, logit_bias=bias,
            **({} if not guided else {"guidance_scale": 2.0, "guidance": {"branches": [{"prompt_ids": [*model.encode("In the end"), *ids[1:at]]}]}}),
        ).json()["choices"][0]  # fmt: skip
        want.append(told["logprobs"]["token_logprobs"][0])
    got = done["logprobs"]["token_logprobs"]
    assert got[0] is None and got[1:-1] == pytest.approx(want[1:], abs=1e-4)
    assert done["logprobs"]["top_logprobs"][0] is None and len(done["logprobs"]["tokens"]) == len(ids) + 1
    assert done["text"].startswith("Once upon a time")
    streamed = stream_of(server, prompt=ids, echo=True, logprobs=1, max_tokens=1, temperature=0, **guided)
    parts = [c["choices"][0]["logprobs"] for c in streamed if c["choices"][0]["logprobs"]]
    assert [v for p in parts for v in p["token_logprobs"]] == got
    assert [v for p in parts for v in p["text_offset"]] == done["logprobs"]["text_offset"]


def test_scoring_alone_writes_nothing(server, model):
    ids = model.encode("Once upon a time")
    whole = server.post(prompt=[ids, ids[:1]], echo=True, logprobs=0, max_tokens=0).json()
    assert [len(c["logprobs"]["tokens"]) for c in whole["choices"]] == [len(ids), 1]
    assert whole["usage"]["completion_tokens"] == 0 and whole["choices"][0]["finish_reason"] == "length"
    (only,) = server.post(prompt="abc", echo=True, max_tokens=0).json()["choices"]
    assert only["text"] == "abc" and only["logprobs"] is None
    assert [c["choices"][0]["text"] for c in stream_of(server, prompt="abc", echo=True, max_tokens=0)] == ["abc"]


def test_a_score_that_guidance_can_not_change_is_refused(server):
    error = server.post(prompt="Once upon", echo=True, logprobs=0, guidance_scale=2).json()["error"]
    assert error["code"] == "no_effect"


def test_the_likeliest_of_several(server):
    asked = {"prompt": "Once", "max_tokens": 6, "temperature": 1.5, "seed": 3, "ignore_eos": True}
    drawn = server.post(**asked, n=6, logprobs=0).json()["choices"]
    best = sorted(drawn, key=lambda c: -sum(c["logprobs"]["token_logprobs"]))
    shown = server.post(**asked, n=2, best_of=6).json()
    assert [c["text"] for c in shown["choices"]] == [c["text"] for c in best[:2]]
    assert [c["index"] for c in shown["choices"]] == [0, 1] and shown["choices"][0]["logprobs"] is None
    assert shown["usage"]["completion_tokens"] == 36
    assert server.post(**asked, n=2, best_of=6, stream=True).status_code == 400


def test_outputs_of_at_least_so_many_tokens(server):
    free = server.complete("Once", return_token_ids=True)["choices"][0]["token_ids"]
    ended = server.complete("Once", stop_token_ids=[free[2]])["usage"]["completion_tokens"]
    longer = server.complete("Once", stop_token_ids=[free[2]], min_tokens=6)["usage"]["completion_tokens"]
    assert ended <= 3 and longer >= 6


def test_usage_with_every_event_and_ids(server, model):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream_of(server, **ASKED, stream_options=options, return_token_ids=True)
    counts = [c["usage"]["completion_tokens"] for c in chunks]
    assert counts == sorted(counts) and counts[-1] == 6 and counts[0] >= 1
    whole = server.post(**ASKED, return_token_ids=True).json()["choices"][0]
    assert [i for c in chunks for choice in c["choices"] for i in choice["token_ids"]] == whole["token_ids"]
    assert chunks[0]["choices"][0]["prompt_token_ids"] == whole["prompt_token_ids"] == model.encode("Once upon")
    chat = server.post(CHAT, messages=MESSAGES, max_tokens=2, return_token_ids=True).json()
    assert len(chat["choices"][0]["token_ids"]) == 2 and chat["prompt_token_ids"]


def test_cached_tokens_are_told(model):
    with serving(model) as running:
        prompt = "You are kind to every guest who knocks. " * 2
        told = [running.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in range(2)]
    assert told == [0, len(model.encode(prompt)) - 1]


@pytest.mark.parametrize("seed", [-1, 0, 2**62, 2**63 - 1, 2**64 - 1, -5])
def test_seeds(server, seed):
    texts = {server.complete("Once", temperature=1, seed=seed)["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == (3 if seed == -1 else 1)


def test_tokens_and_back(server, model):
    ids = model.encode("Hello")
    asked = server.post("/tokenize", prompt="Hello", return_token_strs=True).json()
    assert asked == {"count": 5, "max_model_len": 512, "tokens": ids, "token_strs": list("Hello")}
    assert server.post("/detokenize", tokens=ids).json() == {"prompt": "Hello"}
    chat = server.post("/tokenize", messages=MESSAGES).json()["tokens"]
    written = server.post("/detokenize", tokens=chat).json()["prompt"]
    assert written == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    closed = server.post("/tokenize", messages=MESSAGES, add_generation_prompt=False).json()["tokens"]
    assert server.post("/detokenize", tokens=closed).json()["prompt"] == "<|im_start|>user\nHi<|im_end|>\n"
    assert server.post("/tokenize", prompt="").json()["tokens"] == []
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}),
        ("/detokenize", {"tokens": [10**6]}),
    ):
        assert server.post(path, **body).status_code == 400
    assert server.post("/tokenize", prompt="a", model="other").status_code == 404


def packed(running, data, encoding):
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return http.post(running.base + "/v1/completions", content=data, headers=headers)


@pytest.mark.parametrize(
    "encoding, pack", [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
def test_packed_bodies(server, encoding, pack):
    assert packed(server, pack(json.dumps(ASKED).encode()), encoding).json()["choices"]


def test_packed_bodies_that_are_not(server):
    body = gzip.compress(json.dumps(ASKED).encode())
    bomb = gzip.compress(b'{"prompt": "' + b"a" * (8 << 20) + b'"}')
    for data, encoding, status in (
        (body, "br", 415),
        (b"{}", "gzip", 400),
        (body[:-9], "gzip", 400),
        (bomb, "gzip", 413),
    ):
        answer = packed(server, data, encoding)
        assert answer.status_code == status and answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/models/tiny", "/metrics"])
def test_heads_and_slashes(server, path):
    got, head = http.get(server.base + path), http.head(server.base + path)
    assert head.status_code == got.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    for other in (path + "/", "/" + path):
        assert http.get(server.base + other).status_code == 200


def test_the_api_is_shown_without_another_site(server):
    page = http.get(server.base + "/docs")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    assert not re.search(r"(src|href)=.?(https?:)?//", page.text) and "<script" not in page.text
    document = http.get(server.base + "/openapi.json").json()
    for path in document["paths"]:
        assert f" {path}</code>" in page.text
    for field in ("guidance_scale", "negative_messages", "input_file_id", "max_output_tokens", "purpose"):
        assert f"<code>{field}</code>" in page.text


def test_the_keys_scheme_is_a_word(model):
    with serving(model, api_key="right") as running:
        for given, status in (("bearer right", 200), ("BEARER  right", 200), ("Basic right", 401), ("right", 401)):
            assert http.get(running.base + "/v1/models", headers={"authorization": given}).status_code == status


def test_a_failure_in_a_stream_is_an_event_and_counted(model, monkeypatch, caplog):
    monkeypatch.setattr(COMPLETIONS.answer, "_deltas", lambda *args: 1 / 0)
    origin = {"origin": "https://a.example"}
    with serving(model, cors_origins=("https://a.example",)) as running:
        answers = [
            http.post(running.base + "/v1/completions", json=ASKED | {"stream": s}, headers=origin)
            for s in (True, False)
        ]
        metrics = http.get(running.base + "/metrics").text
        running.wait_idle()
    stream, whole = answers
    assert (
        stream.status_code == 200 and json.loads(stream.text.removeprefix("data: "))["error"]["type"] == "server_error"
    )
    assert whole.status_code == 500 and whole.json()["error"]["type"] == "server_error"
    assert all(a.headers["access-control-allow-origin"] == "https://a.example" for a in answers)
    assert "counterpoint_failures_total 2.0" in metrics and "ZeroDivision" not in stream.text + whole.text


def test_reading_is_held_by_nobody(monkeypatch):
    """A template that loops: its request gets 408 at its deadline and its thread back, the others do not wait for it."""
    loops = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if 'loop' in messages[-1].content %}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    )
    deadlines = []  # those of readings, which the test brings about

    @contextlib.asynccontextmanager
    async def deadline(seconds):
        async with asyncio.timeout(seconds) as made:
            deadlines.append(made)
            yield made

    monkeypatch.setattr(readers, "SLOW_S", 0.05)
    monkeypatch.setattr(readers, "asyncio", SimpleNamespace(**vars(asyncio) | {"timeout": deadline}))
    with serving(make_model(template=loops), limits=Limits(deadline_s=PATIENCE_S)) as running:
        statuses = []
        assert running.post(CHAT, messages=MESSAGES, max_tokens=1).status_code == 200  # the model's trials are over
        usual, pool = sys.getswitchinterval(), running.service.readers._pool

        def ask():
            statuses.append(running.post(CHAT, messages=[{"role": "user", "content": "loop"}]).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        deadlines.clear()
        for thread in threads:
            thread.start()
        wait_for(lambda: sum(_is_looping(thread) for thread in pool._threads) == 3)
        loop, over = running.service.worker._loop, list(deadlines)
        assert running.post(CHAT, messages=MESSAGES, max_tokens=1).status_code == 200
        assert not statuses and sys.getswitchinterval() < usual  # answered beside the three, not after them
        for one in over:
            loop.call_soon_threadsafe(one.reschedule, 0.0)
        for thread in threads:
            thread.join()
        assert statuses == [408] * 3
        wait_for(lambda: not any(_is_looping(thread) for thread in pool._threads))
        wait_for(lambda: sys.getswitchinterval() == usual)


def _is_looping(thread):
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code.co_filename == "<template>":
            return True
        frame = frame.f_back
    return False


def test_a_large_body_of_nested_objects_is_refused_quickly(server):
    deep = b'{"prompt": ' + b"[" * 400_000 + b"]" * 400_000 + b"}"
    wide = json.dumps({"prompt": "a", "guidance": {"branches": [{"a": {"b": {}}}] * 50_000}}).encode()
    for data in (deep, wide):
        answer = http.post(
            server.base + "/v1/completions",
            content=data,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400 and len(answer.text) < 2000


def test_what_is_written_is_json_whatever_the_number():
    written = as_json({"a": float("-inf"), "b": [float("nan"), 0.5], "c": "caf\u00e9"})
    assert written.decode() == '{"a":null,"b":[null,0.5],"c":"caf\u00e9"}'
