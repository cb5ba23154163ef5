import functools
import json
import re

import pytest

import counterpoint as cp
from counterpoint.errors import UsageError
from counterpoint.report import compare

PROMPT, NEGATIVE = "A happy girl sang.", "A sad dog sat alone."
OPTIONS = {"negative": NEGATIVE, "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def compared(model):
    return compare(model, PROMPT, scales=[1, 3, 6], spaces=["log", "prob"], plausibilities=[0, 0.2], **OPTIONS)


def test_each_cell_is_what_its_guide_writes_alone(model, compared):
    assert [(c.guide.scale, c.guide.space, c.guide.plausibility) for c in compared.cells] == [
        (s, p, a) for s in (1, 3, 6) for p in ("log", "prob") for a in (0, 0.2)
    ]
    for cell in compared.cells:
        if cell.guide.scale == 1:
            alone = cp.generate(model, PROMPT, **OPTIONS | {"negative": None})
        else:
            alone = cp.generate(model, PROMPT, guide=cell.guide, **OPTIONS)
        assert tuple(step.token_id for step in cell.traces[0].steps) == alone.token_ids
    assert len({c.traces[0].text for c in compared.cells}) > 3


def test_scale_one_has_a_contrast_too(compared):
    neutral = compared.cells[0]
    expected = sum(s.cond.logprob - s.branches[0].logprob for s in neutral.traces[0].steps) / 12
    assert neutral.metrics.contrast == pytest.approx(expected)


def test_grid_is_one_batch(model, monkeypatch):
    forwards = []
    whole = model.hf.forward

    @functools.wraps(whole)
    def counted(*args, **kwargs):
        forwards.append(1)
        return whole(*args, **kwargs)

    monkeypatch.setattr(model.hf, "forward", counted)
    compare(model, PROMPT, scales=[1, 2, 3, 6], spaces=["log", "prob"], **OPTIONS)
    # Seven requests of twelve tokens; one after the other they would take 84 forwards at least.
    assert len(forwards) < 20


def test_as_json(compared):
    record = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert (record["format"], record["version"]) == ("counterpoint-comparison", 1)
    for cell, fields in zip(compared.cells, record["cells"], strict=True):
        assert fields["scale"] == cell.guide.scale and fields["metrics"]["mean_logprob"] == cell.metrics.mean_logprob
        assert fields["samples"][0]["text"] == cell.traces[0].text
        assert len(fields["samples"][0]["artefacts"]) == fields["metrics"]["num_artefacts"]


def test_samples_are_measured_together(model):
    options = OPTIONS | {"temperature": 1.0, "seed": 3, "n": 3, "max_tokens": 5}
    compared = compare(model, PROMPT, scales=[2], spaces=["prob"], **options)
    assert compared.cells[0].metrics.num_tokens == 15 and len({t.text for t in compared.cells[0].traces}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negative": None}, "a comparison needs a negative"),
        ({"scales": []}, "scales is []; give at least one value"),
        ({"spaces": ["log", "log"]}, "spaces is ['log', 'log']; give at least one value, and none of them twice"),
        ({"spaces": ["bits"]}, "space is 'bits'"),
        ({"scales": [float("nan")]}, "guidance scale is nan"),
        ({"plausibilities": [2]}, "plausibility is 2.0; use a number from 0 to 1"),
        ({"scales": list(range(300))}, "the grid has 600 cells; give at most 256"),
    ],
)
def test_mistakes(model, change, message):
    with pytest.raises(UsageError) as caught:
        compare(model, PROMPT, **(OPTIONS | change))
    assert message in str(caught.value)


def test_what_plausibility_leaves_is_not_counted_as_guidance(model):
    compared = compare(model, PROMPT, scales=[1, 3], spaces=["log"], plausibilities=[0, 0.3], **OPTIONS)
    for cell in compared.cells:
        for step in cell.traces[0].steps:
            if cell.guide.scale == 1:
                assert abs(step.push) < 1e-4, cell.guide  # nothing but the renormalising happened
    pushed = [step for step in compared.cells[-1].traces[0].steps if abs(step.push) > 0.01]
    assert pushed and any(step.kept < -0.01 for step in pushed)
    assert all(step.kept == 0 for step in compared.cells[0].traces[0].steps)


def test_equal_texts_are_one_cell_of_the_page_with_tooltips_and_a_caution(model):
    compared = compare(model, PROMPT, scales=[1, 3], spaces=["log", "prob"], **OPTIONS)
    assert [len(cells) for _, cells in compared.groups][0] == 2  # at scale 1 the spaces are one and the same
    page = compared.html()
    assert page.count('<details class="cell"') == len(compared.groups) < len(compared.cells)
    assert "scale 1 = scale 1" in page and "This is 1 text for each point" in page and 'title="' in page
    assert (
        "caution"
        not in compare(model, PROMPT, scales=[1, 3], n=10, **OPTIONS | {"max_tokens": 2}).html().split("</style>")[1]
    )


def test_the_token_that_ends_a_text_is_a_sign_and_no_text(model):
    one_word = cp.constraints.Choices([" yes", " no"])
    compared = compare(model, PROMPT, scales=[1, 3], constraint=one_word, **OPTIONS | {"ignore_eos": False})
    assert all(cell.traces[0].finish_reason == "stop" for cell in compared.cells)
    page = compared.html().split("</style>")[1]
    shown = re.sub(r"<[^>]*>", "", page)  # without what tooltips say
    assert "/s&gt;" not in shown and "</s>" not in shown
    assert 'data-chip="∎"' in page and "the model ended the text here" in page


def test_branches_and_built_prompts_are_compared_too(model):
    given = {name: value for name, value in OPTIONS.items() if name != "negative"}
    plain = compare(model, PROMPT, scales=[1, 3], **OPTIONS)
    branches = compare(model, PROMPT, branches=[cp.Branch(NEGATIVE)], scales=[1, 3], **given)
    built = compare(model, cp.contexts.instruction("x", given=PROMPT, opposite=NEGATIVE), scales=[3], **given)
    assert [c.traces[0].text for c in plain.cells] == [c.traces[0].text for c in branches.cells]
    assert built.negative != built.prompt
    with pytest.raises(UsageError, match="weight of its own"):
        compare(model, PROMPT, branches=[cp.Branch(NEGATIVE, -1.0)], scales=[3], **given)
