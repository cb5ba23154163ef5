"""Lines of JSON as prompts, and many requests through one engine a window at a time."""

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import counterpoint as cp
from counterpoint.batch import FIELDS, read_line, read_lines, run_all
from counterpoint.engine import Engine, Options, prepare
from counterpoint.errors import UsageError
from counterpoint.models.loading import BUNDLED


@pytest.fixture(scope="module")
def model():
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=len(tokenizer), n_positions=64)
    return cp.Model(GPT2LMHeadModel(config), tokenizer, name="tiny")


def test_a_line_has_the_guide_whole_or_by_its_fields_and_every_option_of_json():
    whole = read_line(b'{"prompt": "a", "guide": {"scale": 3, "space": "prob"}, "temperature": 0, "id": [1]}')
    loose = read_line(b'{"prompt": "a", "scale": 3, "space": "prob", "temperature": 0, "id": [1]}')
    text = read_line(b'{"prompt": "a", "guide": "scale=3,space=prob", "temperature": 0, "id": [1]}')
    assert whole == loose == text and whole.guide == cp.Guide(3.0, space="prob") and whole.options == {"temperature": 0}
    assert read_line(b'\xef\xbb\xbf{"prompt": "a"}\r\n') == read_line(b'{"prompt": "a"}')
    assert read_line(b'{"prompt": null, "logit_bias": {"5": -1}}').options == {"logit_bias": {5: -1}}
    objects = {"processors", "observe", "constraint", "watch", "on_alarm", "max_eases"}  # which JSON does not hold
    assert set(Options.__annotations__) - objects <= set(FIELDS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[1]", "not an object"),
        (b"{}", "with a prompt"),
        (b"\xff", "not valid UTF-8 at byte 0"),
        (b'{"prompt": "a", "id": NaN}', "NaN is no finite number"),
        (b'{"prompt": "a", "id": [1e400]}', "1e400 is no finite number"),
        (b'{"prompt": "a", "temprature": 1}', "unknown field 'temprature'"),
        (b'{"prompt": "a", "guidance_scale": 3}', "write 'scale'"),
        (b'{"prompt": "a", "guide": {"scale": 3}, "scale": 2}', "guide and scale are both given"),
        (b'{"prompt": "a", "guide": 3}', "guide is 3; give an object"),
        (b'{"prompt": "a", "scale": "high"}', "use a number"),
        (b'{"prompt": "a", "branches": []}', "give a list of objects"),
        (b'{"prompt": "a", "branches": [{}], "negative": "b"}', "keep one"),
    ],
)
def test_a_broken_line_says_what_to_write(line, words):
    with pytest.raises(UsageError, match=words):
        read_line(line)
    ((number, error),) = read_lines([b"\n", line]) if line.strip() else ()
    assert number == 2 and isinstance(error, UsageError)


@pytest.mark.parametrize("window", [1, 2, 7])
@pytest.mark.parametrize("in_order", [True, False])
def test_answers_are_those_of_generate_in_any_window(model, window, in_order):
    lengths = [9, 2, 5, 1, 7, 3]
    requests = [
        (k, prepare(model, "ab", n=1 + k % 2, max_tokens=n, seed=k, ignore_eos=True)) for k, n in enumerate(lengths)
    ]
    begun, open_, most = [], 0, 0

    def source():
        nonlocal open_, most
        for request in requests:
            open_ += 1
            most = max(most, open_)
            begun.append(request[0])
            yield request

    answers = []
    for answer in run_all(Engine(model, max_rows=4), source(), window=window, in_order=in_order):
        open_ -= 1
        answers.append(answer)
    assert most <= window
    keys = [answer.key for answer in answers]
    assert sorted(keys) == list(range(6)) and (keys == sorted(keys) or not in_order)
    for answer in answers:
        k = answer.key
        alone = cp.generate(model, "ab", n=1 + k % 2, max_tokens=lengths[k], seed=k, ignore_eos=True)
        assert [c.token_ids for c in answer.completions] == [c.token_ids for c in (alone if k % 2 else [alone])]


def test_what_fails_is_the_answer_of_its_own_request(model):
    def broken(prompt_ids, output_ids, scores):
        raise RuntimeError("no")

    requests = [
        ("good", prepare(model, "ab", max_tokens=3)),
        ("given", UsageError("as it came")),
        ("broken", prepare(model, "ab", max_tokens=3, n=2, processors=[broken])),
        ("long", prepare(cp.load("bundled"), list(range(1, 99)))),
        ("last", prepare(model, "ab", max_tokens=3)),
    ]
    engine = Engine(model)
    answers = {answer.key: answer for answer in run_all(engine, requests)}
    assert list(answers) == ["good", "given", "broken", "long", "last"]
    assert answers["good"].completions and answers["last"].completions
    assert str(answers["given"].error) == "as it came" and "holds 64" in str(answers["long"].error)
    assert isinstance(answers["broken"].error, RuntimeError) and engine.is_idle and engine.num_rows == 0
