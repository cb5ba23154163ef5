"""A form in every loop of transformers: the tokens of a loop without state, whoever orders, drafts or pads the rows."""

import json

import pytest
import torch
from constrained_models import by_definition, fresh, tiny

import counterpoint as cp
from counterpoint.constraints import Choices, Constraint, Json, Regex
from counterpoint.errors import ConstraintError

FORM = Json(
    {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 999}, "b": {"type": "string", "maxLength": 6}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    whitespace=1,
)
GUIDE = cp.Guide(scale=3.0, space="prob")
PROMPTS = [[50, 60, 70, 80, 50, 60], [90, 100]]
NEGATIVES = [[400, 30], [5, 7, 9, 11]]


def generate(model, prompts=PROMPTS, negatives=NEGATIVES, *, guide=GUIDE, constraint=FORM, **options):
    def padded(rows):
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])

    ids, mask = padded(prompts)
    if negatives is not None:
        options["negative_prompt_ids"], options["negative_prompt_attention_mask"] = padded(negatives)
    out = model.hf.generate(
        ids, attention_mask=mask, custom_generate=cp.transformers.generate, guide=guide,
        constraint=constraint.compile(model.hf, model.tokenizer) if isinstance(constraint, Constraint) else constraint,
        **{"max_new_tokens": 40, "do_sample": False, "pad_token_id": 2, **options},
    )  # fmt: skip
    rows = [row[ids.shape[1] :].tolist() for row in out]
    return [tuple(row[: row.index(1) + 1] if 1 in row else row) for row in rows]


@pytest.fixture(scope="module")
def want():
    model = tiny("llama")
    return [by_definition(model, FORM, p, [n], [-2.0], GUIDE, max_tokens=40) for p, n in zip(PROMPTS, NEGATIVES)]


@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"prompt_lookup_num_tokens": 3}, {"assistant_model": "qwen3"}],
    ids=str,
)
def test_greedy_tokens_are_those_of_the_definition(want, options):
    model, options = tiny("llama"), dict(options)
    if "assistant_model" in options:
        options["assistant_model"] = tiny(options["assistant_model"]).hf
    if "prompt_lookup_num_tokens" in options or "assistant_model" in options:  # one prompt at a time
        got = [generate(model, [p], [n], **options)[0] for p, n in zip(PROMPTS, NEGATIVES)]
    else:
        got = generate(model, **options)
    assert got == want


def test_the_form_alone(want):
    model = tiny("llama")
    plain = cp.Guide(scale=1.0)
    want = [by_definition(model, FORM, prompt, [], [], plain, max_tokens=40) for prompt in PROMPTS]
    assert generate(model, negatives=None, guide=None) == want


def by_beams(model, constraint, prompt, negative, num_beams, length):
    """The best beams by definition, for a form whose texts have one length."""
    beams = [((), 0.0)]
    for _ in range(length):
        wider = []
        for ids, score in beams:
            allowed, _ = fresh(constraint, model, ids)
            rows = [model.hf(torch.tensor([[*start, *ids]])).logits[0, -1].float() for start in (prompt, negative)]
            cond, other = (row.masked_fill(~allowed, -torch.inf).log_softmax(-1) for row in rows)
            q = (3 * cond.exp() - 2 * other.exp()).clamp(min=0).log().log_softmax(-1)
            wider += [((*ids, int(i)), score + float(q[i])) for i in q.topk(num_beams).indices if q[i] > -torch.inf]
        beams = sorted(wider, key=lambda beam: -beam[1])[:num_beams]
    return [ids for ids, _ in beams]


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_beams_are_those_of_the_definition(use_cache):
    model, form = tiny("llama"), Regex("[a-h]{40}")
    got = generate(
        model,
        constraint=form,
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=4,
        min_new_tokens=4,
        use_cache=use_cache,
    )
    for at, (prompt, negative) in enumerate(zip(PROMPTS, NEGATIVES)):
        want = by_beams(model, form, prompt, negative, 3, 4)
        assert [row[:4] for row in got[3 * at : 3 * at + 3]] == want


def test_samples_keep_the_form_and_end():
    model = tiny("qwen3")
    torch.manual_seed(0)
    for ids in generate(model, do_sample=True, num_return_sequences=4, max_new_tokens=90):
        if ids[-1] == 1:
            assert set(json.loads(model.decode(ids))) == {"a", "b"}
    assert all(model.decode(ids) in ("yes", "no") for ids in generate(model, constraint=Choices(["yes", "no"])))


def test_what_can_not_be():
    model = tiny("llama")
    with pytest.raises(ConstraintError, match="not compiled"):
        model.hf.generate(
            torch.tensor([[5]]), custom_generate=cp.transformers.generate, constraint=FORM, max_new_tokens=2
        )
    with pytest.raises(ConstraintError, match="4096 token ids"):
        generate(model, constraint=FORM.compile(cp.load("bundled")))
    assert FORM.compile(model.hf, model.tokenizer) is FORM.compile(model)
    with pytest.raises(ConstraintError, match="constraint is"):
        generate(model, constraint={"type": "object"})
    with pytest.raises(ConstraintError, match="ends texts by the tokens"):
        generate(model, constraint=FORM.compile(model), eos_token_id=[1, 7])
