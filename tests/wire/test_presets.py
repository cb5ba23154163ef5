"""A preset named in a request is the fields that it stands for."""

import pytest

from counterpoint.errors import UsageError
from counterpoint.presets import VARIABLE
from counterpoint.wire.presets import with_preset

FILE = """
[kind]
guide = {scale = 2.0, space = "prob"}
contexts = {system = "Be kind.", negative_system = "Be rude."}
sampling = {temperature = 0.5, max_tokens = 9}
[bare]
contexts = {negative_system = "none"}
[plain]
guide = {scale = 3.0}
contexts = {negative = "A wet day"}
[after]
contexts = {suffix = " no", branches = [{last_tokens = 2, weight = -0.5}]}
"""
TURN = {"role": "user", "content": "Hello."}


@pytest.fixture(autouse=True)
def presets(tmp_path, monkeypatch):
    (tmp_path / "presets.toml").write_text(FILE)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "presets.toml"))


def test_fields_of_a_preset_are_defaults():
    assert with_preset({"prompt": "x"}) == {"prompt": "x"}
    assert with_preset({"prompt": "x", "preset": "plain"}) == {
        "prompt": "x", "negative_prompt": "A wet day", "guidance": {"scale": 3.0},
    }  # fmt: skip
    assert with_preset({"messages": [TURN], "preset": "kind"}) == {
        "messages": [{"role": "system", "content": "Be kind."}, TURN], "negative_prompt": "Be rude.",
        "temperature": 0.5, "max_tokens": 9, "guidance": {"scale": 2.0, "space": "prob"},
    }  # fmt: skip
    bare = with_preset({"messages": [TURN], "preset": "bare"})
    assert bare["guidance"] == {"branches": [{"system": None}]}
    branches = [{"last_tokens": 2, "weight": -0.5}, {"suffix": " no"}]
    assert with_preset({"prompt": "x", "preset": "after"})["guidance"] == {"branches": branches}


def test_what_the_request_says_wins():
    own = {"role": "system", "content": "Be brief."}
    given = {"messages": [own, TURN], "temperature": 0, "guidance_scale": 4, "guidance": {"space": "log"}}
    made = with_preset({**given, "preset": "kind", "max_completion_tokens": 3, "negative_prompt": "No."})
    assert made == {**given, "max_completion_tokens": 3, "negative_prompt": "No."}
    assert with_preset({"prompt": "x", "preset": "after", "guidance": {"branches": [1]}})["guidance"]["branches"] == [1]


def test_what_asks_for_nothing_leaves_the_preset_as_it_is():
    neutral = {
        "temperature": None,
        "negative_prompt": "",
        "negative_messages": None,
        "guidance_scale": None,
        "guidance": {},
    }
    for fields in ({"messages": [TURN], "preset": "kind"}, {"messages": [TURN], "preset": "bare"}):
        assert with_preset({**neutral, **fields}) == with_preset(fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "x", "preset": "kind"}, "has system, which is for chats"),
        ({"prompt": "x", "preset": "plian"}, "did you mean plain?"),
        ({"prompt": "x", "preset": 3}, "use the name of a preset"),
        ({"prompt": "x", "preset": "plain", "guidance": "scale=2"}, "as an object only"),
    ],
)
def test_what_can_not_be_is_told(fields, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")) as caught:
        with_preset(fields)
    assert caught.value.param == "preset"
