"""The form of an output over HTTP: schemas by every name, and demanded calls of tools, by the official client."""

import json

import openai
import pydantic
import pytest
from server.conftest import client_of, make_model, serving

TOOLS_TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t.function | tojson }}\n{% endfor %}{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}]{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Where is the cat?"}]
PLACE = {
    "type": "object",
    "properties": {"room": {"enum": ["kitchen", "hall"]}, "sure": {"type": "boolean"}},
    "required": ["room", "sure"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "look", "description": "Look into a room.", "parameters": PLACE}},
    {"type": "function", "function": {"name": "wait"}},
]
GUIDED = {"negative_prompt": "Be rude.", "guidance_scale": 2}
ASKED = {"model": "tiny", "messages": MESSAGES, "max_tokens": 120, "temperature": 1.0, "seed": 4}


class Place(pydantic.BaseModel):
    room: str = pydantic.Field(pattern="^[a-z]{2,5}$")
    sure: bool


UNIQUE = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 2}


@pytest.fixture(scope="module")
def client():
    with serving(make_model(template=TOOLS_TEMPLATE, context_len=2048)) as running, client_of(running) as made:
        yield made


@pytest.mark.parametrize("guidance", [{}, GUIDED])
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}},
        {"response_format": {"type": "json_object", "schema": PLACE}},
        {"structured_outputs": {"json": PLACE}},
        {"guided_json": PLACE},
        {"guided_json": json.dumps(PLACE)},
    ],
)
def test_a_schema_by_every_name(client, fields, guidance):
    done = client.chat.completions.create(**ASKED, extra_body=fields | guidance).choices[0]
    made = json.loads(done.message.content)
    assert made["room"] in ("kitchen", "hall") and isinstance(made["sure"], bool) and done.finish_reason == "stop"


@pytest.mark.parametrize(
    "fields, good",
    [
        ({"structured_outputs": {"choice": ["kitchen", "hall"]}}, lambda text: text in ("kitchen", "hall")),
        ({"guided_choice": ["kitchen", "hall"]}, lambda text: text in ("kitchen", "hall")),
        ({"structured_outputs": {"regex": "[ab]{3}"}}, lambda text: len(text) == 3 and set(text) <= set("ab")),
        ({"guided_grammar": 'start: "x" "y"+'}, lambda text: set(text[1:]) <= {"y"} and text[0] == "x"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "boolean"}}}}, lambda text: isinstance(json.loads(text), bool)),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": UNIQUE}}}, lambda text: len(json.loads(text)) == len(set(json.loads(text))) > 1),
    ],
)  # fmt: skip
def test_other_forms_in_both_endpoints(client, fields, good):
    by_chat = client.chat.completions.create(**ASKED, extra_body=fields).choices[0].message.content
    by_prompt = (
        client.completions.create(model="tiny", prompt="Where?", max_tokens=60, seed=2, extra_body=fields)
        .choices[0]
        .text
    )
    assert good(by_chat) and good(by_prompt), (by_chat, by_prompt)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's, of a parsed message in a history
def test_the_clients_own_parsing(client):
    for extra in ({}, GUIDED):
        done = client.chat.completions.parse(**ASKED, response_format=Place, extra_body=extra).choices[0]
        assert isinstance(done.message.parsed, Place) and 2 <= len(done.message.parsed.room) <= 5
        history = [*MESSAGES, done.message, {"role": "user", "content": "And now?"}]
        assert (
            client.chat.completions.parse(**ASKED | {"messages": history}, response_format=Place)
            .choices[0]
            .message.parsed
        )
    answer = client.responses.parse(model="tiny", input="Where?", text_format=Place, max_output_tokens=120)
    assert isinstance(answer.output_parsed, Place)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_demanded_call(client, parallel):
    asked = ASKED | {"max_tokens": 900, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": parallel}
    done = client.chat.completions.create(**asked).choices[0]
    assert done.finish_reason in ("tool_calls", "length") and (
        done.finish_reason == "length" or done.message.content is None
    )
    calls = done.message.tool_calls or []
    assert len(calls) == 1 or parallel, done
    for call in calls:
        arguments = json.loads(call.function.arguments)
        assert (call.function.name, sorted(arguments)) in (("look", ["room", "sure"]), ("wait", []))
    assert parallel or calls


ROOM = {"enum": ["kitchen", "hall"]}
REFERRING = {
    "type": "object",
    "properties": {"default": {"$ref": "#/$defs/Room"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["default", "next"],
    "additionalProperties": False,
    "$defs": {"Room": {"$ref": "#/$defs/enum"}, "enum": ROOM},
}


@pytest.mark.parametrize("more", [[], TOOLS], ids=["one tool", "of several"])
def test_a_demanded_call_whose_schema_refers_to_its_parts(client, more):
    """As pydantic writes schemas of nested models; each tool's own root is meant, wherever the schema is put."""
    tools = [*more, {"type": "function", "function": {"name": "go", "parameters": REFERRING}}]
    asked = ASKED | {"max_tokens": 700, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    for seed in range(20):
        done = client.chat.completions.create(**asked | {"seed": seed}).choices[0]
        calls = [call for call in done.message.tool_calls or () if call.function.name == "go"]
        for call in calls:
            arguments = json.loads(call.function.arguments)
            while arguments is not None:
                assert set(arguments) == {"default", "next"} and arguments["default"] in ROOM["enum"]
                arguments = arguments["next"]
        if calls:
            return
    pytest.fail("no call was written to its end")


@pytest.mark.parametrize("guidance", [{}, GUIDED])
def test_a_named_call_streamed_and_answered(client, guidance):
    choice = {"type": "function", "function": {"name": "look"}}
    asked = {**ASKED, "tools": TOOLS, "tool_choice": choice, "extra_body": guidance}
    message = client.chat.completions.create(**asked).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "look" and set(json.loads(call.function.arguments)) == {"room", "sure"}
    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    told = [part for delta in deltas for part in delta.delta.tool_calls or ()]
    assert "".join(part.function.arguments for part in told) == call.function.arguments and told[0].id
    assert len(told) > 3 and [part.function.name for part in told] == ["look"] + [None] * (len(told) - 1)
    assert deltas[-1].finish_reason == "tool_calls" and not any(delta.delta.content for delta in deltas)
    history = [*MESSAGES, message, {"role": "tool", "tool_call_id": call.id, "content": "It sleeps there."}]
    again = client.chat.completions.create(**ASKED | {"messages": history, "max_tokens": 3}, tools=TOOLS)
    assert again.choices[0].message.tool_calls is None and again.usage.completion_tokens == 3


def test_a_call_in_a_response(client):
    tools = [{"type": "function", "name": "look", "parameters": PLACE, "strict": True}]
    choice = {"type": "function", "name": "look"}
    asked = {"model": "tiny", "tools": tools, "tool_choice": choice, "max_output_tokens": 120, "temperature": 0}
    done = client.responses.create(input="Where?", **asked)
    (call,) = done.output
    assert (call.type, call.name) == ("function_call", "look") and set(json.loads(call.arguments)) == {"room", "sure"}
    events = list(client.responses.create(input="Where?", stream=True, **asked))
    assert [e.arguments for e in events if e.type == "response.function_call_arguments.done"] == [call.arguments]
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert len(deltas) > 3 and "".join(deltas) == call.arguments
    (item,) = [e.response.output for e in events if e.type == "response.completed"][0]
    assert (item.name, item.arguments, item.status) == ("look", call.arguments, "completed")
    history = [
        {"role": "user", "content": "Where?"},
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "There."},
    ]
    assert (
        client.responses.create(model="tiny", input=history, tools=tools, max_output_tokens=2).output_text is not None
    )


def test_what_begins_ends_in_the_events_of_a_cut_response(client):
    tools = [{"type": "function", "name": "look", "parameters": PLACE, "strict": True}]
    asked = {"model": "tiny", "tools": tools, "tool_choice": {"type": "function", "name": "look"}, "temperature": 0}
    for count in (2, 12, 16, 20, 24):
        events = list(client.responses.create(input="Where?", stream=True, max_output_tokens=count, **asked))
        kinds = [event.type for event in events]
        items = [event.item for event in events if event.type == "response.output_item.done"]
        assert kinds[-1] == "response.incomplete" and [i.status for i in items] == ["incomplete"]
        (last,) = events[-1].response.output
        assert (last.id, last.type, last.status) == (items[0].id, "function_call", "incomplete")
        told = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        whole = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
        assert ["".join(told)] == whole == [last.arguments] == [items[0].arguments]


def test_a_call_that_is_cut_is_a_text(client):
    choice = {"type": "function", "function": {"name": "look"}}
    done = client.chat.completions.create(**ASKED | {"max_tokens": 4}, tools=TOOLS, tool_choice=choice).choices[0]
    assert done.finish_reason == "length" and done.message.tool_calls is None and done.message.content


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {"type": "string"}}}}}, "response_format"),
        ({"guided_json": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}, "guided_json"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": UNIQUE | {"minItems": 4}}}}, "response_format"),
        ({"structured_outputs": {"json": {}, "regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "run"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
    ],
)  # fmt: skip
def test_what_is_refused(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASKED, extra_body=fields)
    assert caught.value.param == param, caught.value


def test_tools_need_a_template_that_shows_them(server):
    asked = {"messages": MESSAGES, "max_tokens": 1, "tools": TOOLS}
    error = server.post("/v1/chat/completions", **asked).json()["error"]
    assert error["param"] == "tools" and "'look'" in error["message"]
    assert server.post("/v1/chat/completions", **asked, tool_choice="none").status_code == 200
    for name in ("cat", "user", "e"):  # which stand in the prompt all the same
        tools = [{"type": "function", "function": {"name": name}}]
        for choice in ({}, {"tool_choice": "required"}):
            error = server.post("/v1/chat/completions", **asked | {"tools": tools} | choice).json()["error"]
            assert error["param"] == "tools" and repr(name) in error["message"]
            assert "leave tools out, or describe them in a message" in error["message"]


def test_a_text_that_repeats_itself_ends(client):
    fields = {"prompt": "The cat", "max_tokens": 60, "logit_bias": {"120": 100}, "extra_body": {"loop": [2, 5]}}
    done = client.completions.create(model="tiny", **fields)
    assert done.choices[0].finish_reason == "loop" and done.usage.completion_tokens == 5
    with pytest.raises(openai.BadRequestError, match="number of repeats"):
        client.completions.create(model="tiny", prompt="The cat", extra_body={"loop": [2, 1]})
