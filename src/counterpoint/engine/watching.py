"""A watch over texts while they are written: the numbers of each step, and what is done at an alarm.

What a watch makes of the numbers is its own (`counterpoint.watch`); here they are measured, and a text goes back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from counterpoint.errors import SamplingError
from counterpoint.guide import Guide

if TYPE_CHECKING:
    from counterpoint.engine.request import Progress
    from counterpoint.models.model import Model

OnAlarm = Literal["mark", "stop", "ease"]
ON_ALARM: tuple[OnAlarm, ...] = ("mark", "stop", "ease")
MAX_EASES = 3
EASED_PLAUSIBILITY = 0.1
FURTHEST = 100.0  # nats below a branch's best; what is further below counts as this far


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one step looks like. Of each branch's own prediction, before penalties, temperature and constraints.

    Args:
        entropy: of the conditional branch, in nats.
        cond_logprob: of the chosen token in the conditional branch.
        guided_logprob: of the chosen token in the guided distribution.
        divergence: KL(conditional || branch) in nats, the mean over the further branches; 0 without any.
        hidden: (H,) what the conditional branch's head read, where the watch asks for it.
    """

    entropy: float
    cond_logprob: float
    guided_logprob: float
    divergence: float
    hidden: Tensor | None = None


class Watcher(Protocol):
    """A watch as one sample has it."""

    def hear(self, step: int, numbers: Numbers) -> float | None:
        """Take in a step; returns how far the last tokens are from good ones, 1 and above being an alarm. None while
        there are too few of them."""

    @property
    def begin(self) -> int:
        """The step where the tokens begin that the last score is of."""

    def cut(self, length: int) -> None:
        """Forget the steps from `length` on: the text has gone back."""


class Watches(Protocol):
    """What `Request.watch` takes, such as a `counterpoint.Watch`."""

    @property
    def window(self) -> int:
        """Tokens that a score is of: so far a text goes back at most."""

    @property
    def hears_states(self) -> bool:
        """Whether `Numbers.hidden` is wanted."""

    def check(self, model: Model) -> None:
        """Raise `UsageError` where it was made for another model."""

    def start(self) -> Watcher:
        """A new sample begins."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that was raised.

    Args:
        step: number of the token at which it was raised, from 0; `begin`: where the tokens begin that it is about.
        score: the highest while it rang; 1 is the bound.
        eased: whether the text went back to `begin` and on from there under a gentler guide.
    """

    step: int
    begin: int
    score: float
    eased: bool = False


@dataclass(slots=True, eq=False)
class Watched:
    """The watch of one sample while it runs.

    Args:
        on_alarm: "mark", "stop" or "ease".
        most_eases: how many times the text may go back.
        delay: tokens that are held back, since the text may still go back behind them.
    """

    watcher: Watcher
    on_alarm: OnAlarm
    most_eases: int
    delay: int
    alarms: list[Alarm] = field(default_factory=list)
    num_eases: int = 0
    num_discarded: int = 0
    stops: bool = False
    _rings: bool = False
    _held: list[tuple[int, Progress]] = field(default_factory=list)

    def hear(self, step: int, numbers: Numbers, *, can_ease: bool) -> bool:
        """Take in the token that is about to be written; whether the text is to go back instead, to the last alarm's
        `begin`."""
        score = self.watcher.hear(step, numbers)
        if score is None or score < 1:
            self._rings = False
            return False
        eases = self.on_alarm == "ease" and can_ease and self.num_eases < self.most_eases
        # Tokens that no model chose are in no score, and lie between those that are.
        begin = max(self.watcher.begin, step + 1 - self.delay) if eases else self.watcher.begin
        if self._rings and not eases:
            last = self.alarms[-1]
            self.alarms[-1] = dataclasses.replace(last, score=max(last.score, score))
        else:
            self.alarms.append(Alarm(step, begin, score, eases))
        self._rings, self.stops = not eases, self.on_alarm == "stop"
        return eases

    def go_back(self, length: int, num_written: int) -> None:
        """The text is cut to so many tokens; as many more had been written."""
        self.num_eases += 1
        self.num_discarded += num_written
        self.watcher.cut(length)
        self._held = [(step, progress) for step, progress in self._held if step < length]

    def released(self, step: int, progress: Progress) -> list[Progress]:
        """What can be told now: of the token number `step` and of those that were held back."""
        self._held.append((step, progress))
        is_over = progress.completion is not None or progress.error is not None
        given = [one for at, one in self._held if is_over or at <= step - self.delay]
        self._held = self._held[len(given) :]
        return given


def check_watch(watch: object, on_alarm: str, max_eases: int, kept: Mapping[str, object]) -> None:
    """Refuse what a request says of its watch and can't be.

    Args:
        kept: what the request has that no step can be taken back from, by name.

    Raises:
        SamplingError: with the field.
    """
    if on_alarm not in ON_ALARM:
        raise SamplingError(f"on_alarm is {on_alarm!r}; use {', '.join(ON_ALARM)}", param="on_alarm")
    if watch is not None and not hasattr(watch, "start"):
        raise SamplingError(f"watch is {watch!r:.60}; use a counterpoint.Watch", param="watch")
    if watch is None and (on_alarm != "mark" or max_eases != MAX_EASES):
        name = "on_alarm" if on_alarm != "mark" else "max_eases"
        raise SamplingError(f"{name} is given and no watch, so nothing raises an alarm; give watch too", param=name)
    for name in (name for name, value in kept.items() if value and on_alarm == "ease"):
        raise SamplingError(
            f"on_alarm is 'ease' and {name} is given, which can't be taken back; use 'mark' or 'stop'", param="on_alarm"
        )


def measure(logits: Tensor, scores: Tensor, token_ids: List[int]) -> list[Numbers]:
    """The numbers of one step of several samples.

    Args:
        logits: (B, 1 + K, V) of the conditional branch, then of each further branch; any constant added.
        scores: (B, V) whose softmax is the guided distribution.
        token_ids: B chosen tokens.
    """
    chosen = torch.tensor(token_ids, device=logits.device)[:, None]
    logits = logits.float()
    logits = (logits - logits.amax(-1, keepdim=True)).clamp_(min=-FURTHEST)
    cond, others = logits[:, 0], logits[:, 1:]
    weights = cond.exp()
    total = weights.sum(-1)  # (B,)
    # E_p[z] of every branch's logits at once: entropy and divergences follow from it and the normalisers.
    means = torch.einsum("bv,bkv->bk", weights, logits) / total[:, None]
    normaliser = total.log()
    entropy = normaliser - means[:, 0]
    divergence = torch.zeros_like(entropy)
    if others.shape[1]:
        apart = (means[:, :1] - normaliser[:, None]) - (means[:, 1:] - others.exp().sum(-1).log())
        divergence = apart.mean(-1)
    of_cond = cond.gather(-1, chosen)[:, 0] - normaliser
    of_guided = (scores.gather(-1, chosen)[:, 0] - scores.logsumexp(-1)).clamp(min=-FURTHEST)
    columns = torch.stack([entropy, of_cond, of_guided, divergence], -1).tolist()
    return [Numbers(*row) for row in columns]


def gentler(guide: Guide, weights: List[float]) -> tuple[Guide, float]:
    """The guide with plausibility 0.1 at least, and what to multiply all weights by so that the scale is halved (1 at
    least, which is unguided).

    The scale is the conditional branch's weight, 1 - sum(weights). Where that is 1 or less, all weights are halved.
    """
    scale = 1 - sum(weights)
    factor = (max(scale / 2, 1.0) - 1) / (scale - 1) if scale > 1 else 0.5
    return dataclasses.replace(guide, plausibility=max(guide.plausibility, EASED_PLAUSIBILITY)), factor
