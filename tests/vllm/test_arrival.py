from types import SimpleNamespace

import pytest

from counterpoint.errors import PromptError, UnsupportedError
from counterpoint.vllm.arrival import branch_ids, refuse_beam
from counterpoint.vllm.params import read


def ids(args, prompt_ids=(3, 4), request_id="cmpl-1-0", encode=lambda text: list(text.encode())):
    return branch_ids(read(args), prompt_ids, request_id, vocab=120, encode=encode)


def test_ids_texts_and_the_last_token_of_the_prompt():
    assert ids({"guidance_scale": 2}) == [[4]]
    branches = [{"prompt_ids": [7], "weight": 1}, {"prompt": "ab", "weight": -1}]
    assert ids({"guidance": {"branches": branches}}) == [[7], [97, 98]]


@pytest.mark.parametrize("request_id", ["chatcmpl-1", "2_chatcmpl-1-0", "resp_1_0"])
def test_a_conversation_needs_the_template(request_id):
    with pytest.raises(UnsupportedError, match="chat template"):
        ids({"guidance_scale": 2, "negative_prompt": "ab"}, request_id=request_id)
    assert ids({"guidance_scale": 2, "negative_prompt_ids": [5]}, request_id=request_id) == [[5]]


@pytest.mark.parametrize(
    ("negative", "encode", "reason"),
    [
        ("a", None, "no tokenizer"),
        ("a", lambda _: [], "no tokens"),
        ("z", lambda _: [120], "token id 120; this model's ids end at 119"),
    ],
)
def test_what_can_not_be_read(negative, encode, reason):
    with pytest.raises(PromptError, match=reason):
        ids({"guidance_scale": 2, "negative_prompt": negative}, encode=encode)


def step(max_tokens=1, detokenize=False):
    return SimpleNamespace(max_tokens=max_tokens, detokenize=detokenize)


@pytest.mark.parametrize("request_id", ["cmpl-1-77aa-beam-0", "chatcmpl-1-77aa-beam-12-0123abcd"])
def test_a_beam_search_that_may_be_guided_is_refused(request_id):
    with pytest.raises(UnsupportedError, match="beam search"):
        refuse_beam(request_id, step())


@pytest.mark.parametrize(
    ("request_id", "params"),
    [
        ("cmpl-unguided-1-77aa-beam-0", step()),
        ("chatcmpl-unguided-1-77aa-beam-1-0123abcd", step()),
        ("chatcmpl-my-beam-1", step(detokenize=True)),
        ("chatcmpl-my-beam-1", step(max_tokens=2)),
        ("cmpl-1-0", step()),
    ],
)
def test_other_requests_are_not_taken_for_one(request_id, params):
    refuse_beam(request_id, params)
