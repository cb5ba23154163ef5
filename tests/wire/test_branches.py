import pytest
import torch
from contexts.chat_templates import byte_tokenizer
from contexts.test_second_model import tiny

from counterpoint.contexts import (
    DEFAULT_SYSTEM,
    NO_SYSTEM,
    Empty,
    LastTokens,
    OtherModel,
    Suffix,
    Swapped,
)
from counterpoint.errors import UsageError
from counterpoint.vectors import Vector
from counterpoint.wire import branch_from_wire


@pytest.fixture(scope="module")
def model():
    return tiny(268, byte_tokenizer(), name="tiny")


@pytest.mark.parametrize(
    "fields, context",
    [
        ({"prompt": "Hi"}, "Hi"),
        ({"prompt_ids": [3, 4]}, (3, 4)),
        ({"last_tokens": 3}, LastTokens(3)),
        ({"empty": True}, Empty()),
        ({"suffix": " no"}, Suffix(" no")),
        ({"suffix": [3]}, Suffix((3,))),
        ({"without": "doc"}, Swapped("doc")),
        ({"without": "doc", "instead": "x"}, Swapped("doc", "x")),
    ],
)
def test_contexts(model, fields, context):
    branch = branch_from_wire({**fields, "weight": -0.5}, model=model)
    assert branch.context == context and branch.weight == -0.5
    assert branch_from_wire(fields, model=model).weight is None


@pytest.mark.parametrize(
    "fields, context",
    [
        ({"system": "Be rude."}, "Be rude."),
        ({"system": None}, NO_SYSTEM),
        ({"default_system": True}, DEFAULT_SYSTEM),
        ({"messages": [{"role": "user", "content": "Hi"}]}, [{"role": "user", "content": "Hi"}]),
        ({"prompt": "Hi"}, "Hi"),
    ],
)
def test_contexts_of_a_chat(model, fields, context):
    assert branch_from_wire(fields, model=model, is_chat=True).context == context


def test_a_vector_by_name():
    model = tiny(268, byte_tokenizer(), name="tiny")
    vector = Vector({0: torch.ones(model.layers.width)})
    model.add_vector("calm", vector)
    assert branch_from_wire({"vector": "calm"}, model=model).context == OtherModel(model.with_vector(vector))
    named = branch_from_wire({"vector": "calm", "strength": -2, "last_tokens": 1}, model=model).context
    assert named == OtherModel(model.with_vector(vector, -2.0), LastTokens(1))
    steered = model.with_vector("calm", 3.0)
    assert branch_from_wire({"vector": None}, model=steered).context == OtherModel(model)
    assert branch_from_wire({"vector": "calm", "strength": 0}, model=model).context == OtherModel(model)


@pytest.mark.parametrize(
    "fields, message, param",
    [
        ({"vector": "loud"}, "no vector 'loud'; none is loaded", "branches.vector"),
        ({"vector": 3}, "vector of a branch is 3; give a name, or null for none", "branches.vector"),
        ({"vector": "calm", "adapter": None}, "at most one reader", "branches"),
        ({"prompt": "Hi", "strength": 2}, "a strength and no vector", "branches.strength"),
        ({"vector": None, "strength": 2}, "a strength and no vector", "branches.strength"),
    ],
)
def test_mistakes_about_vectors(model, fields, message, param):
    with pytest.raises(UsageError, match=message) as caught:
        branch_from_wire(fields, model=model)
    assert caught.value.param == param


def test_a_strength_that_is_none():
    model = tiny(268, byte_tokenizer(), name="tiny")
    model.add_vector("calm", Vector({0: torch.ones(model.layers.width)}))
    for strength in ("1", float("inf"), True):
        with pytest.raises(UsageError, match="strength is") as caught:
            branch_from_wire({"vector": "calm", "strength": strength}, model=model)
        assert caught.value.param == "branches.strength"
    with pytest.raises(UsageError, match="none can be switched here"):
        branch_from_wire({"vector": "calm"})


def test_another_model_by_name(model):
    other = tiny(268, byte_tokenizer(), name="other")
    assert branch_from_wire({"model": "o"}, model=model, models={"o": other}).context == OtherModel(other)
    with_context = branch_from_wire({"model": "o", "last_tokens": 2}, model=model, models={"o": other}).context
    assert with_context == OtherModel(other, LastTokens(2))


@pytest.mark.parametrize(
    "fields, reason",
    [
        ("Hi", "use an object"),
        ({}, "no context"),
        ({"weight": 1}, "no context"),
        ({"prompt": "a", "empty": True}, "one context"),
        ({"model": "o", "adapter": None}, "at most one reader"),
        ({"text": "a"}, "unknown field 'text'"),
        ({"prompt": ""}, "not empty"),
        ({"prompt": 3}, "prompt of a branch is 3"),
        ({"prompt_ids": "ab"}, "list of token ids"),
        ({"last_tokens": 0}, "use 1 or more"),
        ({"last_tokens": True}, "use 1 or more"),
        ({"empty": False}, "only be true"),
        ({"instead": "x", "prompt": "a"}, "give without too"),
        ({"without": ""}, "give a text of the prompt"),
        ({"system": "x"}, "for conversations"),
        ({"model": "unknown"}, "no other model is loaded"),
        ({"model": ["o"]}, "no model"),
        ({"adapter": 3}, "null for none"),
        ({"adapter": None}, "has no adapter"),
        ({"prompt": "a", "weight": "x"}, "use a number"),
    ],
)
def test_mistakes_are_named_in_one_line(model, fields, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        branch_from_wire(fields, model=model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"system": ""}, {"messages": []}, {"messages": "Hi"}, {"default_system": 1}])
def test_mistakes_in_a_chat(model, fields):
    with pytest.raises(UsageError):
        branch_from_wire(fields, model=model, is_chat=True)
