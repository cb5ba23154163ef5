import json

import pytest
from wire.bodies import REFUSED, SAID

from counterpoint.contexts.kinds import LastTokens
from counterpoint.errors import GuideError, NoEffectWarning, PromptError, UsageError
from counterpoint.guide import Branch, Guide
from counterpoint.vllm import extra_args
from counterpoint.vllm.params import Plan, read


@pytest.mark.parametrize("args", [None, {}, {"kv_transfer_params": {}}, {"guidance_scale": 1}, {"guidance_scale": 1.0}])
def test_nothing_to_do(args):
    assert read(args) is None


def test_the_fields():
    args = {"guidance_scale": 3, "negative_prompt": "no", "guidance": {"space": "prob", "gate": 0.5}}
    assert read(args) == Plan(Guide(scale=3.0, space="prob", gate=0.5), ("no",), (-2.0,))


def test_guidance_as_json_and_in_text_form_is_the_same():
    fields = {"space": "prob", "plausibility": 0.1}
    ways = [fields, json.dumps(fields), "space=prob,plausibility=0.1"]
    assert len({read({"guidance_scale": 2, "guidance": way}) for way in ways}) == 1


def test_the_last_prompt_token_is_the_default_negative():
    assert read({"guidance_scale": 2}) == Plan(Guide(scale=2.0), (LastTokens(),), (-1.0,))


def test_branches_beside_a_negative_and_one_of_weight_zero():
    branches = [{"prompt": "a", "weight": -0.5}, {"prompt_ids": [1, 2], "weight": 0.25}, {"prompt": "b", "weight": 0}]
    plan = read({"guidance_scale": 1.5, "negative_prompt_ids": [7], "guidance": {"branches": branches}})
    assert (plan.contexts, plan.weights) == (((7,), "a", (1, 2)), (-0.5, -0.5, 0.25))


def test_plausibility_alone_needs_no_branch():
    assert read({"guidance_scale": 1, "guidance": {"plausibility": 0.1}}).contexts == ()


@pytest.mark.parametrize(("fields", "is_chat", "said"), SAID)
def test_extra_args_say_what_the_wire_says(fields, is_chat, said):
    if is_chat and said.guide is not None:
        return  # conversations are ids by then
    plan = read(fields)
    assert (plan is None) == (said.guide is None)
    assert plan is None or plan.guide == said.guide


@pytest.mark.parametrize(("fields", "is_chat", "param", "words"), REFUSED)
def test_what_the_wire_refuses(fields, is_chat, param, words):
    with pytest.raises(UsageError) as refused:
        read(fields)
    assert is_chat or words in str(refused.value)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"guidance": {"stop": 0}}, "it starts and stops at token 0"),
        ({"negative_prompt": "a", "guidance": {"start": 4, "stop": 4}}, "no effect"),
        ({"guidance": {"branches": [{"prompt": "a", "weight": 0.5}, {"prompt": "a", "weight": -0.5}]}}, "no effect"),
        ({"guidance": {"branches": [{"suffix": "a"}]}}, r"guidance.branches\[0\] is a suffix"),
        ({"guidance": {"branches": [{"without": "a"}]}}, "is a swapped"),
        ({"guidance": {"branches": [{"empty": True}]}}, "is a empty"),
    ],
)
def test_what_can_do_nothing_or_has_no_row(args, reason):
    with pytest.raises(UsageError, match=reason):
        read(args)


def test_extra_args_are_read_back():
    guide = Guide(scale=3.0, space="prob", stop=9)
    assert read(extra_args(guide, "no")) == Plan(guide, ("no",), (-2.0,))
    assert read(extra_args(guide, [1, 2])) == Plan(guide, ((1, 2),), (-2.0,))
    branches = [Branch("a", -0.5), Branch([3], 0.5)]
    assert read(extra_args(Guide(), branches=branches)) == Plan(Guide(), ("a", (3,)), (-0.5, 0.5))
    assert read(extra_args(Guide())) == Plan(Guide(scale=1.5), (LastTokens(),), (-0.5,))


def test_extra_args_warn_of_a_negative_without_effect():
    with pytest.warns(NoEffectWarning):
        assert extra_args(Guide(scale=1.0), "no") == {"guidance_scale": 1.0}


def test_extra_args_refuse_what_read_refuses():
    with pytest.raises(PromptError):
        extra_args(Guide(scale=2.0), "")
    with pytest.raises(GuideError):
        extra_args(Guide(scale=2.0), branches=[Branch("a", 0.5)])
