import math

import pytest

from counterpoint.errors import GuideError
from counterpoint.guide import DEFAULT_SCALE, Branch, Guide


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"scale": math.nan}, "scale is nan"),
        ({"scale": math.inf}, "scale is inf"),
        ({"scale": "3"}, "scale is '3'"),
        ({"scale": True}, "scale is True"),
        ({"scale": 10**400}, "finite"),
        ({"scale": 1e300}, "scale is 1e.300; use a number from -1000000 to 1000000"),
        ({"space": "logit"}, "space is 'logit'; use one of log, prob"),
        ({"plausibility": 1.3}, "plausibility is 1.3; use a number from 0 to 1"),
        ({"plausibility": -0.1}, "plausibility is -0.1"),
        ({"gate": -1}, "gate is -1.0"),
        ({"start": -1}, "start is -1"),
        ({"start": 1.5}, "start is 1.5"),
        ({"start": 5, "stop": 4}, "stop is 4, before start at 5"),
        ({"adaptive": "kl"}, "adaptive is 'kl'"),
    ],
)
def test_out_of_range(fields, words):
    with pytest.raises(GuideError, match=words) as caught:
        Guide(**fields)
    assert "\n" not in str(caught.value)


def test_weights_sum_to_one_with_the_conditional():
    assert Guide(scale=3).weights([Branch("a")]) == (-2.0,)
    assert Guide().weights([Branch("a"), Branch("b", 0.25)]) == (1 - DEFAULT_SCALE, 0.25)
    assert Guide().weights([]) == ()


def test_a_scale_that_could_do_nothing_is_an_error():
    with pytest.raises(GuideError, match="the scale would do nothing"):
        Guide(scale=2).weights([Branch("a", -1)])


def test_active_between_start_and_stop():
    assert [Guide(start=1, stop=3).active(i) for i in range(4)] == [False, True, True, False]
    assert Guide(start=2).active(10**6)


@pytest.mark.parametrize(
    "guide",
    [
        Guide(),
        Guide(scale=3),
        Guide(scale=1.5, space="prob", plausibility=0.1, gate=0.5, start=1, stop=9, adaptive="jsd"),
    ],
)
def test_text_form_and_back(guide):
    assert Guide.parse(str(guide)) == guide
    assert Guide.from_dict(guide.to_dict()) == guide


@pytest.mark.parametrize("text", ["scale", "scale=x", "scal=3", "scale=1,scale=2", "start=1.5"])
def test_bad_text(text):
    with pytest.raises(GuideError):
        Guide.parse(text)


def test_branch_weight_is_checked():
    with pytest.raises(GuideError, match="weight of a branch is inf"):
        Branch("a", math.inf)
    with pytest.raises(GuideError, match="weight of a branch is -1e.39; use a number from -1000000"):
        Branch("a", -1e39)
