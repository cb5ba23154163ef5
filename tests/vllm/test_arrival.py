from types import SimpleNamespace

import pytest

from counterpoint.errors import GuideError, PromptError, UnsupportedError
from counterpoint.vllm.arrival import TAKES_BEST, Vocabulary, branch_ids, refuse_beam, refuse_idle
from counterpoint.vllm.params import read


def ids(args, prompt_ids=(3, 4), request_id="cmpl-1-0", encode=lambda text: list(text.encode())):
    return branch_ids(read(args), prompt_ids, request_id, Vocabulary(120, encode, 40))


def test_ids_texts_and_the_last_token_of_the_prompt():
    assert ids({"guidance_scale": 2}) == [[4]]
    assert ids({"guidance": {"branches": [{"last_tokens": 2}]}}) == [[3, 4]]
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
        ("z" * 41, None, "no tokenizer"),
        ("z" * 41, lambda _: 1 / 0, "41 characters; the model's context holds 40 at most"),
    ],
)
def test_what_can_not_be_read(negative, encode, reason):
    with pytest.raises(PromptError, match=reason):
        ids({"guidance_scale": 2, "negative_prompt": negative}, encode=encode)


GREEDY = dict.fromkeys(TAKES_BEST) | {"repetition_penalty": 1.0}


@pytest.mark.parametrize(
    ("args", "changes", "reason"),
    [
        ({"guidance": {"start": 8}}, {}, "starts at token 8 and the output has at most 8"),
        ({"negative_prompt": "a", "guidance": {"start": 100}}, {}, "starts at token 100"),
        ({"guidance": {"gate": 1e9}}, {}, "the gate is"),
        ({"guidance": {"gate": 4.8}}, {}, "the entropy of 120 tokens at most 4.79"),
        ({"guidance_scale": 1, "guidance": {"plausibility": 0.5}}, {}, "greedy"),
        ({"guidance_scale": 2, "guidance": {"plausibility": 1}}, {"bad_words": []}, "greedy"),
        ({"guidance_scale": 1, "guidance": {"plausibility": 0.5}}, {"temperature": 1.0}, None),
        ({"guidance_scale": 1, "guidance": {"plausibility": 0.5}}, {"logprobs": 1}, None),
        ({"guidance_scale": 1, "guidance": {"plausibility": 0.5}}, {"min_tokens": 2}, None),
        ({"guidance": {"start": 7, "gate": 4.7}}, {}, None),
    ],
)
def test_guidance_that_can_do_nothing_is_refused(args, changes, reason):
    def refuse():
        refuse_idle(read(args), SimpleNamespace(**{**GREEDY, **changes}), num_tokens=8, vocab_size=120, alone=True)

    if reason is None:
        refuse()
        return
    with pytest.raises(GuideError, match=reason):
        refuse()


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
