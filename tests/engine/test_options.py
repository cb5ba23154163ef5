"""One list of options: what its functions show and refuse, and that the other surfaces agree with it."""

import inspect

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import counterpoint as cp
from counterpoint.engine import prepare
from counterpoint.engine.options import ELSEWHERE, Options, RequestOptions, read_options
from counterpoint.errors import ModelError, NoEffectWarning, PromptError, SamplingError, UsageError
from counterpoint.models.loading import BUNDLED
from counterpoint.report import compare, trace
from counterpoint.trace import record

FUNCTIONS = [prepare, cp.generate, cp.stream, record, trace, compare]


@pytest.fixture(scope="module")
def model():
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    config = GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=len(tokenizer), n_positions=48,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(7)
    return cp.Model(GPT2LMHeadModel(config), tokenizer, name="tiny")


def test_a_list_of_negatives_beside_one_prompt_is_told_as_one(model):
    for negative in (["a"], ["a", "b"], [[3, 4]]):
        with pytest.raises(UsageError, match=f"a list of {len(negative)} and there is one prompt; give one") as caught:
            cp.generate(model, "Hello", negative=negative)
        assert caught.value.param == "negative"


@pytest.mark.parametrize("returns, words", [
    (lambda scores: None, "returned NoneType; return scores of shape"),
    (lambda scores: scores[:5], "returned a tensor of shape .5,.; return scores of shape"),
    (lambda scores: scores * float("nan"), "returned scores with nan; return finite ones"),
    (lambda scores: scores + float("inf"), "returned scores with (inf|nan); return finite ones"),
])  # fmt: skip
def test_what_a_processor_returns_is_checked_before_a_token_is_chosen_by_it(model, returns, words):
    for temperature in (0, 1):
        with pytest.raises(SamplingError, match=f"the processor mine {words}") as caught:

            def mine(prompt_ids, output_ids, scores):
                return returns(scores)

            cp.generate(model, "Hello", processors=[mine], temperature=temperature, max_tokens=2)
        assert caught.value.param == "processors"


def test_branches_and_contexts_of_other_kinds_are_told(model):
    for branches in (["a"], [[cp.Branch("a", -1)]], cp.Branch("a", -1), "a"):
        with pytest.raises(UsageError, match="give a list of counterpoint.Branch"):
            cp.generate(model, "Hello", branches=branches)
    with pytest.raises(PromptError, match="the suffix is empty; give at least one token id"):
        cp.generate(model, "Hello", negative=cp.contexts.Suffix(""))
    with pytest.raises(ModelError, match="the model is None; give a name or a folder"):
        cp.load(None)
    tensors = cp.generate(model, torch.tensor([5, 6]), negative=torch.tensor([7, 8]), max_tokens=3, temperature=0)
    assert tensors.token_ids == cp.generate(model, [5, 6], negative=[7, 8], max_tokens=3, temperature=0).token_ids


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_help_names_every_option_with_its_default_and_a_text(function):
    shown = inspect.signature(function).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())
    for name in Options.__annotations__:
        assert name in shown and f"{name}:" in function.__doc__
    assert shown["max_tokens"].default == 256 and shown["temperature"].default == 1.0
    assert not any(line.strip().startswith("options:") for line in function.__doc__.splitlines())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": 3}, "guide=counterpoint.Guide(scale=...)"),
        ({"plausibility": 0.1}, "guide=counterpoint.Guide(plausibility=...)"),
        ({"guidance_scale": 3}, "guide=counterpoint.Guide(scale=...)"),
        ({"max_new_tokens": 3}, "max_tokens=..."),
        ({"do_sample": False}, "temperature=0"),
        ({"temprature": 0}, "did you mean temperature?"),
        ({"something": 0}, "known are "),
    ],
)
def test_another_name_is_one_line_with_the_right_one(model, function, wrong, said):
    with pytest.raises(UsageError) as caught:
        function(model, "ab", **({"negative": "b"} if function is compare else {}), **wrong)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.param == next(iter(wrong))


def test_names_of_other_libraries_are_none_of_ours():
    assert not set(ELSEWHERE) & set(RequestOptions.__annotations__)


def test_left_out_is_what_the_values_say():
    assert read_options({}) == read_options({"stop": None, "logit_bias": None, "stop_ids": (), "processors": ()})
    assert read_options({"stop": "x", "n": 2, "top_k": 3})["stop"] == ("x",)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"stop": 5}, "stop"),
        ({"stop": b"x"}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop_ids": 5}, "stop_ids"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"processors": len}, "processors"),
        ({"n": 0}, "n"),
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_error_carries_the_name_of_its_option(model, options, name):
    with pytest.raises(SamplingError) as caught:
        cp.generate(model, "ab", **options)
    assert caught.value.param == name and str(caught.value).startswith(name)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (b"ab", "decode"),
        ([{"role": "user", "content": "hi"}], "contexts.chat"),
        ({"input_ids": [1]}, "['input_ids']"),
        ("", "empty"),
        (3.5, "give a text or token ids"),
    ],
)
def test_a_prompt_of_another_kind_is_told_what_to_give(model, prompt, said):
    for call in (cp.generate, cp.stream, record):
        with pytest.raises(PromptError, match=said.replace("[", r"\[")):
            call(model, prompt)


def test_ids_may_be_a_tensor(model):
    ids = model.encode("ab")
    assert (
        cp.generate(model, torch.tensor(ids), seed=1, max_tokens=4).token_ids
        == cp.generate(model, ids, seed=1, max_tokens=4).token_ids
    )


def test_a_model_may_be_named_and_one_of_transformers_is_told_how(model):
    done = cp.generate("bundled", "Once", max_tokens=3, temperature=0)
    assert done.token_ids == cp.generate(cp.load("bundled"), "Once", max_tokens=3, temperature=0).token_ids
    assert str(done) == done.text and done.text in done._repr_html_()
    with pytest.raises(ModelError, match=r"counterpoint\.Model\(hf, tokenizer\)"):
        cp.generate(model.hf, "ab")
    with pytest.raises(ModelError, match="give what"):
        cp.stream(None, "ab")


def test_positions_and_the_scale_of_a_guide():
    assert cp.Guide(3.0) == cp.Guide(scale=3.0)
    with pytest.raises(TypeError):
        cp.Guide(3.0, "prob")
    with pytest.raises(UsageError, match="name the others"):
        cp.generate("bundled", "a", "b")


def test_a_full_context_is_told_apart_from_max_tokens(model):
    room = model.context_len - len(model.encode("ab"))
    assert cp.generate(model, "ab", max_tokens=room, ignore_eos=True).finish_reason == "length"
    done = cp.generate(model, "ab", max_tokens=room + 1, ignore_eos=True)
    assert done.finish_reason == "context" and len(done.token_ids) == room


def test_a_warning_points_at_the_caller(model):
    with pytest.warns(UserWarning, match="changes nothing") as seen:
        cp.generate(model, "ab", negative="ab", guide=cp.Guide(3.0), max_tokens=2)
    assert [one.filename for one in seen if one.category is NoEffectWarning] == [__file__]


# -- agreement of the surfaces ----------------------------------------------------------------------------------------

PYTHON_ONLY = {
    "stop_ids": "token ids are for programs",
    "processors": "a function",
    "observe": "a function; `trace` shows what it sees",
}
NOT_ON_THE_COMMAND_LINE = {
    **PYTHON_ONLY,
    "negative": "the options of contexts",
    "branches": "--branch",
    "guide": "--scale",
    "constraint": "--json-schema, --regex, --choices, --grammar",
}
ON_THE_WIRE = {
    "constraint": "response_format",
    "stop_ids": "stop_token_ids",
    "negative": "negative_prompt",
    "branches": "guidance",
    "guide": "guidance",
}
IN_THE_HARNESS = {"max_tokens": "max_gen_toks", "stop": "until"}


def test_the_command_line_has_every_option():
    from counterpoint.cli.generate import command

    params = {param.name for param in command.params}
    named = {"n": "num_samples"}
    missing = {name for name in RequestOptions.__annotations__ if named.get(name, name) not in params}
    assert missing <= set(NOT_ON_THE_COMMAND_LINE), missing


def test_the_wire_has_every_option():
    from counterpoint.server.schema import CompletionBody

    wire = CompletionBody.model_fields
    missing = {name for name in RequestOptions.__annotations__ if ON_THE_WIRE.get(name, name) not in wire}
    assert missing == {"processors", "observe"}  # functions


def test_the_harness_passes_options_of_ours_on():
    from counterpoint.evaluate.arguments import SAMPLING_KEYS

    assert set(SAMPLING_KEYS) < set(Options.__annotations__)
    assert set(IN_THE_HARNESS) < set(Options.__annotations__)
