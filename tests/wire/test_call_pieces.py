"""Calls read while they are written are those read at the end, wherever the text is cut."""

import json
import random

import pytest

from counterpoint.constraints import Json
from counterpoint.wire.call_pieces import CallPieces
from counterpoint.wire.forms import Calls

LISTS = [
    '[{"name": "look", "parameters": {"room": "h\\"a}l[l", "sure": true}}]',
    '[ {\r"name" : "l\\u00f6ok","parameters":{}} ,\n{"name":"wait", "parameters" : {"a": [1, {"b": "}"}], "c": {}} } ]  ',
    '[{"name": "name", "parameters": {"name": "parameters", "parameters": "\\\\"}}, {"name": "b", "parameters": 12}]',
    '[{"name": "a", "parameters": "text"}, {"name": "b", "parameters": [[]]}, {"name": "c", "parameters": null}]',
]


def gathered(pieces):
    calls, whole = [], []
    for piece in pieces:
        if piece.name is not None:
            assert piece.number == len(calls)
            calls.append([piece.name, ""])
        calls[piece.number][1] += piece.arguments
        whole += [piece.number] if piece.is_whole else []
    return calls, whole


@pytest.mark.parametrize("text", LISTS)
def test_a_list_of_calls(text):
    want = [[call["name"], call["parameters"]] for call in json.loads(text)]
    chance = random.Random(0)
    for _ in range(40):
        cuts = sorted(chance.choices(range(len(text)), k=chance.randrange(30)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
        reader = CallPieces(None)
        calls, whole = gathered(piece for part in parts for piece in reader.read(part))
        assert [[name, json.loads(arguments)] for name, arguments in calls] == want
        assert whole == list(range(len(want)))
    assert [list(call) for call in Calls(Json({}), None).read(text)] == gathered(CallPieces(None).read(text))[0]
    assert Calls(Json({}), None).read(text[:-3].rstrip(" ]")) is None


def test_one_named_call():
    for text in (' {"a": "}\\""} \n', "{}", "[1, [2]]"):
        reader = CallPieces("look")
        calls, whole = gathered(piece for char in text for piece in reader.read(char))
        assert calls == [["look", text.strip()]] and whole == [0]


def test_what_is_cut_short_has_begun():
    reader = CallPieces(None)
    calls, whole = gathered(reader.read('[{"name": "a", "parameters": {}}, {"name": "b", "parameters": {"x": [1'))
    assert calls == [["a", "{}"], ["b", '{"x": [1']] and whole == [0]
