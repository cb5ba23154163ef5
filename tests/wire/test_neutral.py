import pytest

from counterpoint.errors import FieldError, UnknownFieldError
from counterpoint.wire import FOREIGN, OWN, UNTOUCHING, asked, is_neutral

KNOWN = {"prompt", "temperature", *OWN}


@pytest.mark.parametrize("name", [*OWN, *FOREIGN, *UNTOUCHING, "temperature", "unheard_of"])
def test_null_is_left_out(name):
    assert is_neutral(name, None)


@pytest.mark.parametrize("name, value", [(n, v) for n, values in OWN.items() for v in values])
def test_own_fields_at_their_neutral_value_are_left_out(name, value):
    assert asked({"prompt": "a", name: value}, KNOWN) == {"prompt": "a"}


@pytest.mark.parametrize("name, value", [(n, v) for n, field in FOREIGN.items() for v in (*field.neutral, None)])
def test_foreign_fields_pass_at_their_neutral_value(name, value):
    assert asked({"prompt": "a", name: value}, KNOWN) == {"prompt": "a"}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("value", ["something", 0.375, {"a": 1}])
def test_foreign_fields_are_refused_by_name_at_any_other(name, value):
    with pytest.raises(FieldError, match=f"^{name} is") as caught:
        asked({"prompt": "a", name: value}, KNOWN)
    assert caught.value.param == name and not isinstance(caught.value, UnknownFieldError)


@pytest.mark.parametrize("name", sorted(UNTOUCHING))
@pytest.mark.parametrize("value", [True, "x", {"a": "b"}])
def test_what_never_touches_the_text_passes(name, value):
    assert asked({name: value}, KNOWN) == {}


def test_no_name_stands_twice():
    assert not set(OWN) & set(FOREIGN) and not UNTOUCHING & (set(OWN) | set(FOREIGN))


def test_all_unknown_fields_are_named_at_once():
    with pytest.raises(UnknownFieldError, match="'promt', 'temprature'") as caught:
        asked({"promt": "a", "temprature": 1, "suffix": "x"}, KNOWN)
    assert caught.value.param == "promt" and caught.value.code == "unknown_parameter"


def test_all_refused_fields_are_named_at_once():
    with pytest.raises(FieldError, match="suffix is 'x': .*use_beam_search is True: "):
        asked({"suffix": "x", "use_beam_search": True}, KNOWN)


@pytest.mark.parametrize(
    "name, value", [("min_tokens", False), ("seed", True), ("use_beam_search", 0), ("num_beams", True)]
)
def test_a_number_is_no_truth_value(name, value):
    assert not is_neutral(name, value)
