"""Contexts over HTTP: the same branches as in the library, shown on demand."""

import json

import pytest
import torch
from patience import http
from server.conftest import make_model, serving

import counterpoint as cp
from counterpoint.contexts import LastTokens, OtherModel, Suffix, Swapped

PROMPT = "The polite reply:"
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "fields, context",
    [
        ({"last_tokens": 3}, LastTokens(3)),
        ({"suffix": " No"}, Suffix(" No")),
        ({"without": " polite"}, Swapped(" polite")),
        ({"without": "polite", "instead": "rude"}, Swapped("polite", "rude")),
        ({"prompt": "The rude reply:", "last_tokens": None}, "The rude reply:"),
    ],
)
def test_branches_are_those_of_the_library(server, model, fields, context):
    got = server.complete(PROMPT, guidance={"branches": [fields | {"weight": -0.7}]}, show_branches=True)["choices"][0]
    want = cp.generate(model, PROMPT, branches=[cp.Branch(context, -0.7)], max_tokens=8, temperature=0, ignore_eos=True)
    assert got["text"] == want.text
    shown = cp.contexts.show(model, PROMPT, branches=[cp.Branch(context, -0.7)]).to_dict()
    assert got["branches"] == json.loads(json.dumps(shown))["branches"]


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"system": "Be rude."}, "<|im_start|>system\nBe rude.<|im_end|>\n"),
        ({"prompt": "Be rude."}, "<|im_start|>system\nBe rude.<|im_end|>\n"),
        ({"system": None}, ""),
        ({"default_system": True}, ""),
    ],
)
def test_system_messages_of_a_chat(server, fields, text):
    body = {"messages": MESSAGES, "max_tokens": 4, "guidance": {"branches": [fields]}, "show_branches": True}
    answer = server.post("/v1/chat/completions", **body)
    assert answer.status_code == 200, answer.text
    branch = answer.json()["choices"][0]["branches"][1]
    assert branch["text"] == text + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_stream_tells_with_its_first_piece(server):
    body = {
        "prompt": PROMPT,
        "max_tokens": 4,
        "negative_prompt": "The rude reply:",
        "show_branches": True,
        "stream": True,
    }
    with http.stream("POST", server.base + "/v1/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    told = ["branches" in choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    assert told[0] and not any(told[1:])


def test_another_model_by_its_name(model):
    other = make_model(name="other")
    other.hf.lm_head.weight.data.mul_(-1)
    with serving(model, models={"small": other}) as running:
        got = running.complete(PROMPT, guidance={"branches": [{"model": "small", "weight": -0.5}]})["choices"][0][
            "text"
        ]
        refused = running.post(prompt=PROMPT, guidance={"branches": [{"model": "big"}]})
    branches = [cp.Branch(OtherModel(other), -0.5)]
    assert got == cp.generate(model, PROMPT, branches=branches, max_tokens=8, temperature=0, ignore_eos=True).text
    assert refused.status_code == 400 and "no model 'big'" in refused.json()["error"]["message"]


def test_without_the_adapter():
    peft = pytest.importorskip("peft")
    model = make_model()
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False), model.hf, "own"
    )
    with serving(model) as running:
        got = running.complete(PROMPT, guidance={"branches": [{"adapter": None, "weight": -1}]})["choices"][0]["text"]
    branches = [cp.Branch(OtherModel(model.with_adapter(None)), -1)]
    assert got == cp.generate(model, PROMPT, branches=branches, max_tokens=8, temperature=0, ignore_eos=True).text


def test_a_vector_by_its_name():
    """On for every prompt, off in one branch, another strength in another; nothing is left of any when all is done."""
    model = make_model()
    vector = cp.Vector({1: 8 * torch.randn(32, generator=torch.Generator().manual_seed(0))})
    steered = model.with_vector(vector, 0.5)
    steered.add_vector("own", vector)
    fields = [{"vector": None, "weight": -1}, {"vector": "own", "strength": -2.5, "weight": 0.5}]
    with serving(steered) as running:
        got = running.complete(PROMPT, guidance={"branches": fields})["choices"][0]["text"]
        plain = running.complete(PROMPT)["choices"][0]["text"]
        refused = running.post(prompt=PROMPT, guidance={"branches": [{"vector": "other"}]})
    branches = [cp.Branch(OtherModel(model), -1), cp.Branch(OtherModel(model.with_vector(vector, -2.5)), 0.5)]
    options = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    assert got == cp.generate(steered, PROMPT, branches=branches, **options).text
    assert plain == cp.generate(steered, PROMPT, **options).text != cp.generate(model, PROMPT, **options).text
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["param"] == "guidance.branches[0].vector"
    assert error["message"].startswith("there is no vector 'other'; known are own")


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({}, "no context"),
        ({"prompt": None}, "no context"),
        ({"last_tokens": 1, "empty": True}, "last_tokens and empty"),
        ({"empty": False}, "empty"),
        ({"system": "x"}, "for conversations"),
        ({"without": "absent"}, "0 times"),
        ({"instead": "x", "prompt": "y"}, "give without too"),
        ({"adapter": "x"}, "no adapter"),
        ({"empty": True}, "begins a text"),
    ],
)
def test_mistakes_are_400(server, fields, reason):
    answer = server.post(prompt=PROMPT, guidance={"branches": [fields]})
    assert answer.status_code == 400 and reason in answer.json()["error"]["message"], answer.text
