"""The launcher's server, as its users see it: the official client over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from stateless import Job, Stateless, differences
from tiny_models import CHAT_TEMPLATE, save, tokenizer

encode = tokenizer().encode
PROMPT, NEGATIVE = "Once upon a time", "Never, said the fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def model(folder):
    return Stateless(folder)


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    """The launcher, by its own command; ended as a service manager would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch = tmp_path_factory.mktemp("scratch")
    log = scratch / "server.txt"
    flags = "--served-model-name tiny --dtype float32 --enforce-eager --max-num-seqs 7 --max-num-batched-tokens 64"
    flags += f" --kv-cache-memory-bytes {1 << 24} --block-size 32 --port {port} --host 127.0.0.1"
    flags += " --exclude-tools-when-tool-choice-none --trust-request-chat-template"
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    command = [str(Path(sys.executable).with_name("counterpoint")), "serve", "--engine", "vllm", str(folder)]
    with log.open("w") as stream:
        process = subprocess.Popen([*command, *flags.split()], stdout=stream, stderr=subprocess.STDOUT, env=environment)
    try:
        base = f"http://127.0.0.1:{port}"
        patience = time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(base + "/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < patience, log.read_text()[-4000:]
                time.sleep(0.3)
        assert list(scratch.glob("counterpoint-metrics-*"))
        yield base
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not list(scratch.glob("counterpoint-metrics-*"))
    finally:
        process.kill()


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def complete(client, prompt=PROMPT, max_tokens=16, **fields):
    asked = {"return_token_ids": True, "ignore_eos": True, **fields}
    return client.completions.create(
        model="tiny", prompt=prompt, max_tokens=max_tokens, temperature=0, extra_body=asked
    )


def metric(url, name):
    lines = urllib.request.urlopen(url + "/metrics", timeout=10).read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def is_loop(model, prompt, negative, ids, scale=3.0):
    return differences(model.guided(Job(prompt, [negative], [1 - scale]), ids[:-1]), ids) == []


def test_two_fields_in_a_completion(client, model):
    done = complete(client, guidance_scale=3, negative_prompt=NEGATIVE)
    assert is_loop(model, encode(PROMPT), encode(NEGATIVE), done.choices[0].token_ids)
    assert done.usage.prompt_tokens == len(PROMPT)
    assert done.usage.branch_tokens == len(NEGATIVE) + 16


def test_the_same_in_xargs(client):
    fields = {"guidance_scale": 3, "negative_prompt": NEGATIVE}
    assert complete(client, vllm_xargs=fields).choices[0].text == complete(client, **fields).choices[0].text


def test_a_guide_with_branches(client):
    branches = [{"prompt": NEGATIVE, "weight": -0.5}, {"prompt": "A third", "weight": 0.5}]
    done = complete(client, guidance={"space": "prob", "plausibility": 0.1, "branches": branches})
    assert done.usage.branch_tokens == len(NEGATIVE) + len("A third") + 2 * 16


def test_a_list_of_prompts_has_the_negative_each(client, model):
    prompts = [PROMPT, "Another one"]
    done = complete(client, prompt=prompts, guidance_scale=3, negative_prompt=NEGATIVE)
    for prompt, choice in zip(prompts, done.choices, strict=True):
        assert is_loop(model, encode(prompt), encode(NEGATIVE), choice.token_ids)


def test_a_chats_negative_goes_through_the_template(client, model):
    messages = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    rude = [{"role": "system", "content": "Be rude"}, messages[1]]

    def chat(**fields):
        return client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=16, temperature=0,
            extra_body={"return_token_ids": True, "ignore_eos": True, "guidance_scale": 3, **fields},
        )  # fmt: skip

    assert "[assistant]" in CHAT_TEMPLATE
    written = [f"[system] {kind}\n[user] Hi\n[assistant] " for kind in ("Be kind", "Be rude")]
    done = chat(negative_prompt="Be rude")
    assert is_loop(model, encode(written[0]), encode(written[1]), done.choices[0].token_ids)
    assert done.usage.prompt_tokens == len(written[0])
    assert done.usage.branch_tokens == len(written[1]) + 16
    assert chat(negative_messages=rude).choices[0].token_ids == done.choices[0].token_ids
    assert chat(vllm_xargs={"negative_prompt": "Be rude"}).choices[0].token_ids == done.choices[0].token_ids


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
CHAT = "[system] {}\n[user] Hi\n[assistant] "


@pytest.mark.parametrize(
    ("fields", "template"),
    [
        ({"reasoning_effort": "none"}, CHAT + "(quiet) "),
        ({"reasoning_effort": "high"}, CHAT),
        ({"chat_template_kwargs": {"enable_thinking": False}}, CHAT + "(quiet) "),
        ({"tools": TOOLS, "tool_choice": "none"}, CHAT),  # by a flag of the server's
        ({"add_generation_prompt": False}, CHAT.removesuffix("[assistant] ")),
        ({"truncate_prompt_tokens": 33}, CHAT),
        ({"chat_template": "{{ messages[0].content }}: {{ messages[1].content }}"}, "{}: Hi"),
    ],
    ids=str,
)
def test_whatever_decides_how_a_chat_is_written_holds_for_the_negative(client, model, fields, template):
    messages = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    done = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=8, temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True, "guidance_scale": 3, "negative_prompt": "Be rude", **fields},
    )  # fmt: skip
    cut = fields.get("truncate_prompt_tokens", 1000)
    positive, negative = (encode(template.format(system))[-cut:] for system in ("Be kind", "Be rude"))
    assert list(done.prompt_token_ids) == positive
    assert done.usage.branch_tokens == len(negative) + 8
    assert is_loop(model, positive, negative, done.choices[0].token_ids)


def test_a_completions_negative_is_cut_as_its_prompt_is(client, model):
    done = complete(client, guidance_scale=3, negative_prompt=NEGATIVE, truncate_prompt_tokens=6)
    assert is_loop(model, encode(PROMPT)[-6:], encode(NEGATIVE)[-6:], done.choices[0].token_ids)


def raw(url, body, kind="application/json", path="/v1/completions"):
    """The status of an answer, and the answer."""
    request = urllib.request.Request(url + path, body.encode(), {"content-type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_kind_of_content_in_other_letters_is_guided(client, url):
    fields = {"guidance_scale": 3, "negative_prompt": NEGATIVE}
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True, **fields}
    status, answer = raw(url, json.dumps(body), "application/JSON; charset=utf-8")
    assert (status, answer["choices"][0]["text"]) == (200, complete(client, **fields).choices[0].text)


def test_deeply_nested_json_is_400(url):
    deep = "[" * 50_000 + "]" * 50_000
    for body in (deep, f'{{"prompt": "a", "guidance": {deep}}}', f'{{"prompt": {deep}, "negative_prompt": "a"}}'):
        status, answer = raw(url, body)
        assert (status, "nested" in answer["error"]["message"]) == (400, True)


@pytest.mark.parametrize("chat", [False, True])
def test_a_huge_negative_is_refused_unread(url, chat):
    prompt = {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": "Hi"}
    body = json.dumps({"model": "tiny", **prompt, "max_tokens": 1, "negative_prompt": "no " * 600_000})
    before = time.perf_counter()
    status, answer = raw(url, body, path="/v1/chat/completions" if chat else "/v1/completions")
    assert (status, "characters" in answer["error"]["message"]) == (400, True)
    assert time.perf_counter() - before < 8


def test_concurrent_and_streamed_are_the_same(client):
    fields = [{"guidance_scale": scale, "negative_prompt": NEGATIVE} for scale in (0, 1.5, 3, 7.5)] * 4
    fields = [*fields, {}, {}]

    def streamed(asked):
        stream = client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=16, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True, **asked},
        )  # fmt: skip
        events = list(stream)
        assert not asked or events[-1].usage.branch_tokens == len(NEGATIVE) + 16
        return "".join(event.choices[0].text for event in events if event.choices)

    alone = [complete(client, **asked).choices[0].text for asked in fields]
    with ThreadPoolExecutor(18) as pool:
        assert list(pool.map(streamed, fields)) == alone
        assert list(pool.map(lambda asked: complete(client, **asked).choices[0].text, fields)) == alone


def test_a_disconnect_leaves_nothing_running(client, url):
    stream = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=230, stream=True,
        extra_body={"ignore_eos": True, "guidance_scale": 3, "negative_prompt": NEGATIVE},
    )  # fmt: skip
    next(iter(stream))
    stream.close()
    for _ in range(100):
        if not metric(url, "vllm:num_requests_running") + metric(url, "vllm:num_requests_waiting"):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("requests are still running ten seconds after their client left")
    assert complete(client, guidance_scale=3, negative_prompt=NEGATIVE).usage.completion_tokens == 16


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"guidance_scale": "x"}, "guidance_scale is 'x'"),
        ({"guidance_scale": 3, "negative_prompt": "long " * 60}, "a branch can't be read: .*context length"),
        ({"guidance": {"spce": "prob"}}, "unknown guidance field"),
        ({"guidance": {"stop": 0}}, "no effect: it starts and stops at token 0"),
        ({"guidance": {"start": 16}}, "starts at token 16 and the output has at most 16"),
        ({"guidance": {"start": 999}, "max_tokens": None}, "starts at token 999"),
        ({"guidance": {"gate": 1e6}}, "no effect: the gate is 1000000.0 nats"),
        ({"guidance_scale": 2, "negative_prompt": PROMPT}, "equals the prompt"),
        ({"vllm_xargs": {"guidance": "stop=0"}}, "no effect"),
        ({"guidance_scale": 2, "vllm_xargs": [1]}, "vllm_xargs is"),
        ({"guidance_scale": 3, "use_beam_search": True, "n": 2}, "beam search"),
        ({"vllm_xargs": {"guidance_scale": "x"}}, "guidance_scale is 'x'"),
        ({"guidance_scale": 3, "negative_prompt_ids": [1, 999]}, "token id 999"),
        ({"guidance": {"branches": [{"prompt": "a", "weight": 0.1}] * 7}}, "8 branches"),
    ],
)
def test_what_is_wrong_is_400_with_a_reason(client, fields, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        complete(client, **fields)


def test_an_unguided_beam_search_is_vllms_own(client):
    assert len(complete(client, max_tokens=3, n=2, use_beam_search=True).choices) == 2


def test_scale_one_is_unguided(client, url):
    before = metric(url, "counterpoint:branches_total")
    for fields in ({"guidance_scale": 1}, {"guidance_scale": 1, "negative_prompt": "a"}, {"negative_prompt": ""}):
        assert complete(client, **fields).choices[0].text == complete(client).choices[0].text
    assert metric(url, "counterpoint:branches_total") == before


def test_metrics(client, url):
    before = metric(url, "counterpoint:guided_requests_total"), metric(url, "counterpoint:branch_tokens_total")
    complete(client, guidance_scale=3, negative_prompt=NEGATIVE)
    assert metric(url, "counterpoint:guided_requests_total") == before[0] + 1
    assert metric(url, "counterpoint:branch_tokens_total") == before[1] + len(NEGATIVE) + 16
