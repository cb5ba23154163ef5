"""Whether a vision-language model can tell left from right, and whether guidance helps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from counterpoint.contexts import pictures
from counterpoint.errors import PromptError, UsageError
from counterpoint.evaluate.drawn import ACROSS, DOWN, SHAPES, Drawn, drawn
from counterpoint.evaluate.intervals import Difference, Interval, difference, interval
from counterpoint.formulas import log_probs
from counterpoint.guide import Branch, Guide
from counterpoint.guiding import combined
from counterpoint.models.inputs import InputHistories
from counterpoint.models.trials import abilities_of


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every picture: its text, the answers to choose from, and the right one."""

    name: str
    text: str
    answers: tuple[str, ...]
    right: Callable[[Drawn], str]

    def of(self, shown: Drawn) -> str:
        return self.text.format(thing=f"{shown.colour} {shown.shape}")


QUESTIONS = (
    Question("across", "Is the {thing} on the left, in the middle or on the right?", ACROSS, lambda d: d.across),
    Question("down", "Is the {thing} at the top, in the middle or at the bottom?", DOWN, lambda d: d.down),
    Question("shape", "Is it a circle, a square or a triangle?", SHAPES, lambda d: d.shape),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question under one guide: what was answered, and what was right, picture by picture."""

    question: str
    guide: Guide
    answered: tuple[str, ...]
    right: tuple[str, ...]

    @property
    def correct(self) -> list[bool]:
        return [a == b for a, b in zip(self.answered, self.right)]

    def accuracy(self, *, seed: int = 0) -> Interval:
        """Share of right answers with its 95 % interval."""
        return interval(self.correct, seed=seed)

    def gain(self, other: Outcome, *, seed: int = 0) -> Difference:
        """Its accuracy less another's on the same pictures."""
        return difference(self.correct, other.correct, seed=seed)

    def by_place(self) -> dict[str, float]:
        """Accuracy for each right answer."""
        places = dict.fromkeys(self.right)
        return {
            p: sum(a == p for a, r in zip(self.answered, self.right) if r == p) / self.right.count(p) for p in places
        }

    def confusion(self) -> dict[tuple[str, str], int]:
        """How often each (right, answered) pair came."""
        return dict(Counter(zip(self.right, self.answered)))


def check_negative(kind: str) -> None:
    """Raise `UsageError` for another kind than those of `negative_picture`."""
    if kind == "without":
        return
    try:
        pictures.change_of(kind)
    except PromptError:
        raise UsageError(
            f"the negative picture is {kind!r}; use noisy:STEPS (0 to 1000), blank, without or none"
        ) from None


def negative_picture(kind: str, image: Any, shown: Drawn, *, seed: int) -> Any:
    """The picture of the negative branch; None is no picture.

    Args:
        kind: "noisy" or "noisy:STEPS" (see `contexts.pictures.noisy`), "blank", "without" (the shape cut out), "none".

    Raises:
        UsageError: another kind.
    """
    check_negative(kind)
    if kind == "without":
        size, half = image.size[0], shown.extent / 2
        lows, highs = (shown.x - half, shown.y - half), (shown.x + half, shown.y + half)
        box = (*(max(0, int(low * size)) for low in lows), *(min(size, int(high * size) + 1) for high in highs))
        return pictures.without(image, box)
    return pictures.change_of(kind, seed=seed)(image)


@torch.no_grad()
def where(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    guides: Sequence[Guide],
    *,
    num_pictures: int = 180,
    size: int = 224,
    negative: str = "noisy",
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Ask a model where drawn shapes are, and what they are, under every guide.

    The answer is the one with the highest guided log-probability of its tokens after the question. Both branches read
    the same question; the negative's picture is another one. They are read once for all guides.

    Args:
        model: one that reads pictures. processor: its own.
        num_pictures: a multiple of 9 has each place equally often.
        size: pixels of a picture's side, before the processor.
        negative: as in `negative_picture`.
        on_progress: called with the number of pictures done.

    Returns:
        One outcome for each question and guide.

    Raises:
        UsageError: no guide, too few pictures, or an unknown negative.
    """
    if not guides or num_pictures < 1 or size < 8:
        raise UsageError(
            f"{len(guides)} guides, {num_pictures} pictures of {size} pixels; use one or more, of 8 pixels or more"
        )
    answered: dict[tuple[str, int], list[str]] = {(q.name, at): [] for q in QUESTIONS for at in range(len(guides))}
    right: dict[str, list[str]] = {q.name: [] for q in QUESTIONS}
    for number, shown in enumerate(drawn(num_pictures, seed=seed)):
        image = shown.picture(size)
        other = negative_picture(negative, image, shown, seed=seed + number)
        for question in QUESTIONS:
            text = question.of(shown)
            branches = [inputs_of(processor, text, image), inputs_of(processor, text, other)]
            scores = _scores(model, branches, _answer_ids(processor, question.answers), guides)
            for at, best in enumerate(scores.argmax(-1).tolist()):
                answered[question.name, at].append(question.answers[best])
            right[question.name].append(question.right(shown))
        if on_progress is not None:
            on_progress(number + 1)
    return [
        Outcome(question.name, guide, tuple(answered[question.name, at]), tuple(right[question.name]))
        for question in QUESTIONS
        for at, guide in enumerate(guides)
    ]


def inputs_of(processor: ProcessorMixin, question: str, image: Any) -> dict[str, Tensor]:
    """One prompt as the model's processor makes it: by its chat template, else the picture, the question, and a new line."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "text", "text": question}]
        if image is not None:
            content.insert(0, {"type": "image"})
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        text = f"{question}\n" if image is None else f"{processor.image_token}\n{question}\n"
    return dict(processor(text=[text], images=None if image is None else [image], return_tensors="pt"))


def _answer_ids(processor: ProcessorMixin, answers: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(processor.tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers]


def _scores(
    model: PreTrainedModel,
    branches: Sequence[Mapping[str, Tensor]],
    answers: Sequence[tuple[int, ...]],
    guides: Sequence[Guide],
) -> Tensor:
    """Guided log-probability of each answer. -> (guides, answers)."""
    read = [InputHistories(model, branch, abilities_of(model).own_state()) for branch in branches]
    scores = torch.zeros(len(guides), len(answers))
    weights = [guide.weights([Branch(None)]) for guide in guides]
    for step in range(max(map(len, answers))):
        going = [at for at, ids in enumerate(answers) if len(ids) > step]
        begun = list(dict.fromkeys(answers[at][:step] for at in going))
        cond, other = (log_probs(one.logits([(0, ids) for ids in begun])) for one in read)
        for row, ids in enumerate(begun):
            rows = [row] * len(guides)
            guided = combined(cond[rows], other[rows][:, None], weights, guides, [step] * len(guides))
            for at in going:
                if answers[at][:step] == ids:
                    scores[:, at] += guided[:, answers[at][step]].cpu()
    return scores
