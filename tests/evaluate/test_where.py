import numpy as np
import picture_models as models
import pytest
import torch

from counterpoint.errors import UsageError
from counterpoint.evaluate import where as room
from counterpoint.evaluate.drawn import ACROSS, COLOURS, DOWN, MIDDLE, drawn, place
from counterpoint.evaluate.where import QUESTIONS, Outcome, check_negative, negative_picture, where
from counterpoint.guide import Guide


def test_the_middle_is_within_2_percent_of_the_centre():
    assert [place(x, ACROSS) for x in (0.479, 0.481, 0.5, 0.519, 0.521)] == ["left", *["middle"] * 3, "right"]
    assert place(0.9, DOWN) == "bottom" and place(0.1, DOWN) == "top"


def test_every_place_comes_equally_often_and_is_what_the_picture_shows():
    shapes = list(drawn(90, seed=3))
    places = [(shape.across, shape.down) for shape in shapes]
    assert {places.count((a, d)) for a in ACROSS for d in DOWN} == {10}
    for shape in shapes[:18]:
        pixels = np.asarray(shape.picture(100), dtype=float)
        ink = np.abs(pixels - COLOURS[shape.colour]).sum(-1) < 20
        rows, columns = np.nonzero(ink)
        middle = ((columns.min() + columns.max() + 1) / 200, (rows.min() + rows.max() + 1) / 200)
        assert abs(middle[0] - shape.x) < MIDDLE / 2 and abs(middle[1] - shape.y) < MIDDLE / 2
    assert shapes == list(drawn(90, seed=3)) != list(drawn(90, seed=4))


def test_without_cuts_the_shape_out():
    shape = next(iter(drawn(1, seed=1)))
    left = np.asarray(negative_picture("without", shape.picture(64), shape, seed=0), dtype=float)
    assert (np.abs(left - COLOURS[shape.colour]).sum(-1) > 60).all()
    assert negative_picture("none", shape.picture(64), shape, seed=0) is None


@pytest.mark.parametrize("kind", ["fog", "noisy:", "noisy:x", "noisy:1001", "blank:3", ""])
def test_an_unknown_negative_is_refused(kind):
    if kind == "noisy:":
        check_negative(kind)  # 500 steps
        return
    with pytest.raises(UsageError, match="use noisy:STEPS"):
        check_negative(kind)


class Reader:
    """A processor whose only words are the answers, one or two tokens each."""

    image_token, chat_template = "<image>", None
    words = {"left": [20], "middle": [21, 22], "right": [21, 23], "top": [24], "bottom": [25]}

    def __init__(self):
        self.tokenizer = self.answers

    def answers(self, text, add_special_tokens):
        return {"input_ids": self.words.get(text, [30 + len(text)])}

    def __call__(self, *, text, images, return_tensors):
        picture = None if images is None else 1 + int(np.asarray(images[0]).sum()) % 2
        return models.inputs("Qwen2.5-VL", [5, 6, 7], picture)


def test_scores_are_those_of_a_loop_over_each_answer():
    model = models.MODELS["Qwen2.5-VL"][0]()
    guides = [Guide(scale=1.0), Guide(scale=3.0), Guide(scale=2.0, space="prob", plausibility=0.1)]
    branches = [models.inputs("Qwen2.5-VL", [5, 6, 7], seed) for seed in (1, 2)]
    answers = [(20,), (21, 22), (21, 23)]
    with torch.no_grad():
        got = room._scores(model, branches, answers, guides)
        for at, guide in enumerate(guides):
            for number, answer in enumerate(answers):
                total = 0.0
                for step in range(len(answer)):
                    rows = []
                    for branch in branches:
                        model.model.rope_deltas = None
                        ids = torch.cat([branch["input_ids"], torch.tensor([answer[:step]], dtype=torch.long)], 1)
                        whole = models.with_masks("Qwen2.5-VL", {**branch, "input_ids": ids})
                        rows.append(model(**whole, use_cache=False).logits[:, -1].log_softmax(-1))
                    guided = room.combined(rows[0], rows[1][:, None], [[1 - guide.scale]], [guide], [step])
                    total += float(guided[0, answer[step]])
                assert float(got[at, number]) == pytest.approx(total, abs=1e-4)


def test_every_question_is_answered_under_every_guide():
    model = models.MODELS["Qwen2.5-VL"][0]()
    seen = []
    outcomes = where(
        model, Reader(), [Guide(scale=1.0), Guide(scale=2.0)], num_pictures=9, size=16, on_progress=seen.append
    )
    assert [(o.question, o.guide.scale) for o in outcomes] == [(q.name, s) for q in QUESTIONS for s in (1.0, 2.0)]
    across = outcomes[0]
    assert sorted(across.right) == sorted([*ACROSS] * 3) and set(across.answered) <= set(ACROSS) and seen[-1] == 9
    assert sum(across.confusion().values()) == 9 and 0 <= across.accuracy().low <= across.accuracy().high <= 1
    with pytest.raises(UsageError, match="0 guides"):
        where(model, Reader(), [])


def test_figures_of_an_outcome():
    one = Outcome("across", Guide(), ("left", "left", "right", "middle"), ("left", "right", "right", "left"))
    plain = Outcome("across", Guide(scale=1.0), ("right",) * 4, one.right)
    assert one.correct == [True, False, True, False] and one.by_place() == {"left": 0.5, "right": 0.5}
    assert one.confusion() == {("left", "left"): 1, ("right", "left"): 1, ("right", "right"): 1, ("left", "middle"): 1}
    assert one.gain(plain).value == 0.0
