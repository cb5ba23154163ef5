"""What an adapter has gained, on prompts that it did not learn from: the model before, under guidance, and with the adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from counterpoint.distillation.answers import Answer, Example, Writer
from counterpoint.distillation.config import Writing
from counterpoint.distillation.loss import surprise
from counterpoint.distillation.reading import Reading
from counterpoint.distillation.rules import Rule, keeps_all
from counterpoint.engine import Request
from counterpoint.engine.options import read_options
from counterpoint.errors import PromptError
from counterpoint.guide import Guide
from counterpoint.models.model import Model

if TYPE_CHECKING:
    from counterpoint.distillation.student import Student

KEPT_TOKENS = 256  # of a text to keep


@dataclass(frozen=True, slots=True)
class Gains:
    """Measured on what is held out.

    Args:
        answers, tokens: how many guided answers it is measured on, and their tokens.
        loss_before, loss_after: the training loss in nats a token, of the model without and with the adapter; None where
            nothing was held out.
        rules: (arm, answers that keep all rules, answers), for "unguided", "guided" and "distilled"; empty without rules.
        perplexity_before, perplexity_after: of the texts to keep that were held out; None without such texts.
    """

    answers: int = 0
    tokens: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    rules: tuple[tuple[str, int, int], ...] = ()
    perplexity_before: float | None = None
    perplexity_after: float | None = None

    @property
    def closed(self) -> float | None:
        """The share of the loss that is gone: 1 where the student predicts what guidance does."""
        if self.loss_before is None or self.loss_after is None or self.loss_before <= 0:
            return None
        return 1 - self.loss_after / self.loss_before


def text_to_keep(model: Model, text: str, *, weight: float) -> Example:
    """An ordinary text, of which the student shall predict what the model predicts; its first 256 tokens.

    Raises:
        PromptError: it is too short to predict anything of.
    """
    begin = () if model.bos_id is None else (model.bos_id,)
    most = min(KEPT_TOKENS, model.context_len or KEPT_TOKENS)
    ids = tuple(model.encode(text, special_tokens=False))[:most] if text else ()
    context, rest = (begin, ids) if begin else (ids[:1], ids[1:])
    if not context or not rest:
        raise PromptError(f"a text to keep is {text!r:.40}, which is too short; leave it out", param="keep")
    return Example(Reading(context, context, (), Guide(scale=1.0)), rest, weight, is_kept=True)


@torch.no_grad()
def perplexity(student: Student, texts: Sequence[Example]) -> float | None:
    """Of the tokens of ordinary texts; None without texts."""
    if not texts:
        return None
    nats, count = 0.0, 0
    for text in texts:
        (logprobs,) = student.logprobs([(text.reading.student_ids, text.answer_ids)])
        nats += float(surprise(torch.tensor(text.answer_ids, device=logprobs.device), logprobs).double().sum())
        count += len(text.answer_ids)
    return math.exp(nats / count)


def alone(examples: Sequence[Example], config: Writing, seed: int) -> list[Request]:
    """Requests that answer what the student reads, without any branch."""
    options: dict[str, Any] = read_options(config.sampling)
    return [
        Request(prompt_ids=one.reading.student_ids, seed=seed + number, logprobs=0, **options)
        for number, one in enumerate(examples)
    ]


def kept_rules(arm: str, answers: Sequence[Answer], rules: Sequence[Rule]) -> tuple[str, int, int]:
    """How many of an arm's answers keep all rules."""
    return arm, sum(keeps_all(rules, one.text, one.is_ended) for one in answers), len(answers)


def shares(
    before: Writer, after: Writer, examples: Sequence[Example], guided: Sequence[Answer], rules: Sequence[Rule],
    config: Writing, *, seed: int,
) -> tuple[tuple[str, int, int], ...]:  # fmt: skip
    """The arms of `Gains.rules`: all answer the same prompts."""
    if not rules or not examples:
        return ()
    requests = alone(examples, config, seed)
    plain = [one for (one,) in before.write(requests, "unguided answers")]
    learnt = [one for (one,) in after.write(requests, "answers of the adapter")]
    return tuple(
        kept_rules(arm, answers, rules)
        for arm, answers in (("unguided", plain), ("guided", guided), ("distilled", learnt))
    )
