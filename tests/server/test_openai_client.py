"""The official client, unchanged."""

import openai
import pytest
from server.conftest import client_of, make_model, serving

import counterpoint as cp
from counterpoint.contexts import chat
from counterpoint.server.limits import Limits

GREEDY = {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello, who are you?"}]


def guided(**fields):
    return {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True, **fields}}


def test_a_completion_is_the_librarys(client, model):
    done = client.completions.create(model="tiny", prompt="Once upon a time", **GREEDY)
    want = cp.generate(model, "Once upon a time", max_tokens=12, temperature=0, ignore_eos=True)
    assert done.choices[0].text == want.text
    assert (done.choices[0].finish_reason, done.object, done.model) == ("length", "text_completion", "tiny")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (16, 12, 28)


@pytest.mark.parametrize(
    "fields, guide",
    [
        ({"guidance_scale": 3.0}, cp.Guide(scale=3.0)),
        ({"cfg_scale": 3}, cp.Guide(scale=3.0)),
        ({"guidance": {"scale": 2.5, "space": "prob"}}, cp.Guide(scale=2.5, space="prob")),
        ({"guidance_scale": 4.0, "guidance": {"plausibility": 0.2, "start": 2, "stop": 9}}, cp.Guide(scale=4.0, plausibility=0.2, start=2, stop=9)),
        ({"guidance_scale": 2.0, "guidance": {"gate": 0.5, "adaptive": "jsd"}}, cp.Guide(scale=2.0, gate=0.5, adaptive="jsd")),
    ],
)  # fmt: skip
def test_a_guided_completion_is_the_librarys(client, model, fields, guide):
    done = client.completions.create(
        model="tiny", prompt="Once upon a time", **guided(negative_prompt="In the end", **fields)
    )
    options = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    want = cp.generate(model, "Once upon a time", negative="In the end", guide=guide, **options)
    assert done.choices[0].text == want.text
    assert done.choices[0].text != cp.generate(model, "Once upon a time", **options).text
    assert done.usage.branch_tokens == len("In the end") + 12


def test_branches_with_weights_and_a_suffix(client, model):
    branches = [
        {"prompt": "Rain", "weight": -0.5},
        {"prompt_ids": [40, 41, 42], "weight": 0.3},
        {"suffix": " now", "weight": -0.4},
    ]
    done = client.completions.create(model="tiny", prompt="Once upon", **guided(guidance={"branches": branches}))
    want = cp.generate(
        model,
        "Once upon",
        branches=[cp.Branch("Rain", -0.5), cp.Branch([40, 41, 42], 0.3), cp.Branch(cp.contexts.Suffix(" now"), -0.4)],
        max_tokens=12, temperature=0, ignore_eos=True,
    )  # fmt: skip
    assert done.choices[0].text == want.text


def test_a_scale_without_a_negative_takes_the_last_token(client, model):
    done = client.completions.create(model="tiny", prompt="Once upon", **guided(guidance_scale=2.0))
    want = cp.generate(model, "Once upon", guide=cp.Guide(scale=2.0), max_tokens=12, temperature=0, ignore_eos=True)
    assert done.choices[0].text == want.text


def test_streaming_gives_the_same_text_in_pieces(client):
    options = guided(negative_prompt="In the end", guidance_scale=3.0)
    whole = client.completions.create(model="tiny", prompt="Once upon a time", **options)
    chunks = list(
        client.completions.create(
            model="tiny", prompt="Once upon a time", stream=True, stream_options={"include_usage": True}, **options
        )
    )
    *pieces, last = chunks
    assert "".join(c.choices[0].text for c in pieces) == whole.choices[0].text
    assert len(pieces) > 3 and pieces[-1].choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_prompts_samples_and_seeds(client, model):
    done = client.completions.create(
        model="tiny", prompt=["One", "Two"], n=3, seed=7, max_tokens=6, temperature=1.0, echo=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert [c.index for c in done.choices] == list(range(6))
    want = cp.generate(model, ["One", "Two"], n=3, seed=7, max_tokens=6, temperature=1.0, ignore_eos=True)
    texts = [c.text for c in done.choices]
    assert texts == [("One", "Two")[i // 3] + completion.text for i, completion in enumerate(want)]
    assert len(set(texts)) > 2
    assert done.usage.prompt_tokens == 6 and done.usage.completion_tokens == 36


def test_token_ids_as_a_prompt(client):
    ids = client.completions.create(model="tiny", prompt=[40, 41, 42], **GREEDY)
    many = client.completions.create(model="tiny", prompt=[[40, 41, 42], [50]], **GREEDY)
    assert many.choices[0].text == ids.choices[0].text


def test_stop_bias_and_penalties(client):
    free = client.completions.create(model="tiny", prompt="Once upon", **GREEDY).choices[0].text
    middle = free[5:7]
    stopped = client.completions.create(model="tiny", prompt="Once upon", stop=[middle], **GREEDY).choices[0]
    assert stopped.text == free[: free.index(middle)] and stopped.finish_reason == "stop"
    pieces = list(client.completions.create(model="tiny", prompt="Once upon", stop=middle, stream=True, **GREEDY))
    assert "".join(c.choices[0].text for c in pieces) == stopped.text
    forced = client.completions.create(model="tiny", prompt="Once upon", logit_bias={"33": 100}, **GREEDY)
    assert len(set(forced.choices[0].text)) == 1
    varied = client.completions.create(model="tiny", prompt="a", frequency_penalty=2, presence_penalty=2, **GREEDY)
    assert varied.usage.completion_tokens == 12


def test_logprobs_are_those_of_the_guided_distribution(client, model):
    options = guided(negative_prompt="In the end", guidance_scale=3.0)
    done = client.completions.create(model="tiny", prompt="Once upon", logprobs=3, **options).choices[0]
    want = cp.generate(
        model, "Once upon", negative="In the end", guide=cp.Guide(scale=3.0), max_tokens=12, temperature=0,
        ignore_eos=True, logprobs=3,
    )  # fmt: skip
    assert done.logprobs.token_logprobs == pytest.approx([t.logprob for t in want.logprobs], abs=1e-4)
    assert all(
        len(top) == 3 and max(top.values()) == value
        for top, value in zip(done.logprobs.top_logprobs, done.logprobs.token_logprobs)
    )
    assert len(done.logprobs.tokens) == len(done.logprobs.text_offset) == 12
    streamed = client.completions.create(model="tiny", prompt="Once upon", logprobs=3, stream=True, **options)
    parts = [c.choices[0].logprobs for c in streamed if c.choices[0].logprobs]
    assert [t for p in parts for t in p.tokens] == done.logprobs.tokens
    assert [o for p in parts for o in p.text_offset] == done.logprobs.text_offset


def test_chat_goes_through_the_template(client, model):
    done = client.chat.completions.create(model="tiny", messages=MESSAGES, **GREEDY)
    text = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\n"
    ids = model.encode(text, special_tokens=False)
    want = cp.generate(model, ids, max_tokens=12, temperature=0, ignore_eos=True)
    assert done.choices[0].message.content == want.text
    assert done.choices[0].message.role == "assistant" and done.usage.prompt_tokens == len(ids)


def test_a_negative_prompt_takes_the_system_messages_place(client, model):
    by_prompt = client.chat.completions.create(
        model="tiny", messages=MESSAGES, **guided(negative_prompt="Be rude.", guidance_scale=3.0)
    )
    by_messages = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        **guided(negative_messages=[{"role": "system", "content": "Be rude."}, MESSAGES[1]], guidance_scale=3.0),
    )
    built = chat(model, MESSAGES, negative="Be rude.")
    want = cp.generate(model, built, guide=cp.Guide(scale=3.0), max_tokens=12, temperature=0, ignore_eos=True)
    plain = client.chat.completions.create(model="tiny", messages=MESSAGES, **GREEDY)
    texts = [done.choices[0].message.content for done in (by_prompt, by_messages)]
    assert texts == [want.text, want.text] and want.text != plain.choices[0].message.content


def test_chat_in_pieces_with_logprobs(client):
    options = guided(negative_prompt="Be rude.", guidance_scale=3.0) | {"logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, **options).choices[0]
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, n=1, **options))
    deltas = [c.choices[0] for c in chunks]
    assert deltas[0].delta.role == "assistant" and deltas[-1].finish_reason == "length"
    assert "".join(d.delta.content or "" for d in deltas) == whole.message.content
    tokens = [t for d in deltas if d.logprobs for t in d.logprobs.content]
    assert [t.token for t in tokens] == [t.token for t in whole.logprobs.content]
    assert all(len(t.top_logprobs) == 2 and t.top_logprobs[0].logprob == t.logprob for t in tokens)


def test_content_in_parts_and_the_newer_name_of_max_tokens(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    options = {"model": "tiny", "temperature": 0, "max_completion_tokens": 5, "extra_body": {"ignore_eos": True}}
    a = client.chat.completions.create(messages=parts, **options)
    b = client.chat.completions.create(messages=[{"role": "user", "content": "Hello"}], **options)
    assert a.choices[0].message.content == b.choices[0].message.content and a.usage.completion_tokens == 5


def test_a_trace_tells_what_every_branch_thought(client):
    done = client.completions.create(
        model="tiny", prompt="Once upon", **guided(negative_prompt="In", guidance_scale=3.0, trace=2)
    )
    steps = done.choices[0].trace
    assert len(steps) == 12 and [s["step"] for s in steps] == list(range(12))
    assert "".join(s["text"] for s in steps) == done.choices[0].text
    assert all(len(s["branches"]) == 1 and len(s["guided"]["top"]) == 2 for s in steps)
    assert all(s["guided"]["rank"] == 1 and s["guidance"] == "applied" for s in steps)
    streamed = client.completions.create(
        model="tiny", prompt="Once upon", stream=True, **guided(negative_prompt="In", guidance_scale=3.0, trace=2)
    )
    assert [s for c in streamed for s in getattr(c.choices[0], "trace", [])] == steps


def test_the_models(client):
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "counterpoint"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    "fields, param, words",
    [
        ({"guidnce": {}}, "guidnce", "unknown field 'guidnce'"),
        ({"negative_prompt": "Once", "guidance_scale": 3}, "negative_prompt", "changes nothing"),
        ({"negative_prompt": "Once"}, "negative_prompt", "changes nothing"),
        ({"guidance": {"plausibility": 3}}, "guidance.plausibility", "from 0 to 1"),
        ({"guidance_scale": "much"}, "guidance_scale", "'much'"),
        ({"negative_prompt": "x", "guidance": {"start": 99}}, "guidance.start", "starts at token 99"),
    ],
)
def test_mistakes_are_the_clients_own_exceptions(client, fields, param, words):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="Once", max_tokens=4, extra_body=fields)
    assert caught.value.param == param and words in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="Once")
    assert caught.value.code == "model_not_found"


def test_without_a_template_there_is_no_chat():
    with serving(make_model(template=None)) as running, client_of(running) as client:
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model="tiny", messages=MESSAGES)


def test_a_template_that_refuses_is_a_mistake_of_the_request():
    refusing = "{{ raise_exception('roles must alternate') }}"
    with serving(make_model(template=refusing)) as running:
        answer = running.post("/v1/chat/completions", messages=[{"role": "user", "content": "a"}])
        assert answer.status_code == 400 and "roles must alternate" in answer.json()["error"]["message"]


def test_the_key(model):
    with serving(model, api_key="right", limits=Limits(max_samples=4)) as running:
        with client_of(running, "wrong") as client, pytest.raises(openai.AuthenticationError):
            client.completions.create(model="tiny", prompt="Once", max_tokens=1)
        with client_of(running, "right") as client:
            assert client.completions.create(model="tiny", prompt="Once", max_tokens=1).choices
            with pytest.raises(openai.BadRequestError, match="takes 4"):
                client.completions.create(model="tiny", prompt="Once", n=5)
