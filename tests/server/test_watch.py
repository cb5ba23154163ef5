"""A watch over HTTP: named, told, streamed, counted."""

import json

import pytest
from patience import http
from server.conftest import make_model, serving

import counterpoint as cp

FIELDS = {"negative_prompt": "no", "guidance_scale": 3, "max_tokens": 24, "temperature": 0}


@pytest.fixture(scope="module")
def watched():
    """Fitted on one text over and over, so that it rings at once."""
    model = make_model()
    watch = cp.Watch.fit(model, [("Hello", "aaaaaaaa" * 3)] * 8, negative="no", guide=cp.Guide(scale=3), window=6)
    with serving(model, watches={"strict": watch}) as running:
        yield running, model, watch


def generated(model, **options):
    return cp.generate(
        model, "Hello", negative="no", guide=cp.Guide(scale=3), max_tokens=24, temperature=0, ignore_eos=True, **options
    )


def test_marks_stops_and_eases(watched):
    running, model, watch = watched
    plain = running.complete("Hello", **FIELDS)["choices"][0]
    marked = running.complete("Hello", watch="strict", **FIELDS)["choices"][0]
    assert marked["text"] == plain["text"] and marked["alarms"] and "alarms" not in plain
    stopped = running.complete("Hello", watch="strict", on_alarm="stop", **FIELDS)["choices"][0]
    assert stopped["finish_reason"] == "alarm" and plain["text"].startswith(stopped["text"])
    answer = running.complete("Hello", watch="strict", on_alarm="ease", max_eases=1, **FIELDS)
    want = generated(model, watch=watch, on_alarm="ease", max_eases=1)
    assert answer["choices"][0]["text"] == want.text and want.usage.eases == 1
    assert answer["usage"]["discarded_tokens"] == want.usage.discarded_tokens
    assert [a["step"] for a in answer["choices"][0]["alarms"]] == [a.step for a in want.alarms]


def test_a_stream_takes_nothing_back(watched):
    running, model, watch = watched
    body = {"prompt": "Hello", "watch": "strict", "on_alarm": "ease", "stream": True, "ignore_eos": True, **FIELDS}
    with http.stream("POST", running.base + "/v1/completions", json=body) as answer:
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in line["choices"]]
    want = generated(model, watch=watch, on_alarm="ease")
    assert "".join(choice["text"] for choice in choices) == want.text and len(choices) > 3
    assert [len(choice["alarms"]) for choice in choices if "alarms" in choice] == [len(want.alarms)]


def test_alarms_are_counted(watched):
    running, _, _ = watched

    def count():
        lines = http.get(running.base + "/metrics").text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith('counterpoint_alarms_total{watch="strict"}')
        )

    before = count()
    answer = running.complete("Hello", watch="strict", on_alarm="stop", **FIELDS)
    assert count() == before + len(answer["choices"][0]["alarms"])


@pytest.mark.parametrize(
    "fields, param, message",
    [
        ({"watch": "other"}, "watch", "there is no watch 'other'; known are strict"),
        ({"on_alarm": "stop"}, "on_alarm", "no watch"),
        ({"watch": "strict", "on_alarm": "sing"}, "on_alarm", "mark"),
        ({"watch": "strict", "on_alarm": "ease", "trace": 1}, "on_alarm", "can't go back"),
        ({"watch": "strict", "on_alarm": "ease", "negative_prompt": None, "guidance_scale": 1}, "on_alarm", "nothing guides"),
    ],
)  # fmt: skip
def test_mistakes_are_400(watched, fields, param, message):
    answer = watched[0].post(prompt="Hello", **FIELDS | fields)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and message in error["message"], error


def test_neutral_values_pass(server):
    body = {"watch": None, "on_alarm": None, "max_eases": None}
    assert (
        server.complete("Hello", **body)["choices"][0]["text"]
        == server.complete("Hello", watch="")["choices"][0]["text"]
    )
    assert server.post(prompt="Hello", watch="any").json()["error"]["message"].endswith("this server has none")


def test_a_watch_of_another_model_is_refused_at_the_start(watched):
    _, _, watch = watched
    other = make_model()
    other.hf.lm_head.weight.data.mul_(2)
    with pytest.raises(cp.errors.UsageError, match="of another model"), serving(other, watches={"strict": watch}):
        pass
