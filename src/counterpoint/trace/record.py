"""The values of a trace. Log-probabilities in nats, ranks from 1, divergences in bits. No tensors, no models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.errors import UsageError
from counterpoint.guide import Guide

#: What became of guidance at a step: it took part; its branches were not needed; the entropy was below the gate; the
#: step lies outside of start and stop; there is none.
GUIDANCE = ("applied", "skipped", "gated", "outside", "off")


@dataclass(frozen=True, slots=True)
class ArtefactLimits:
    """When a chosen token is an artefact: implausible to the conditional branch, by rank and by probability.

    Args:
        rank: the token lies beyond this many more probable ones, 1 or more.
        prob: its conditional probability is below this, from 0 to 1. 0 marks nothing.

    Raises:
        UsageError: one of them is out of its range.
    """

    rank: int = 50
    prob: float = 0.001

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise UsageError(f"the artefact rank is {self.rank!r}; use a whole number, 1 or more")
        if isinstance(self.prob, bool) or not isinstance(self.prob, (int, float)) or not 0 <= self.prob <= 1:
            raise UsageError(f"the artefact probability is {self.prob!r}; use a number from 0 to 1")

    def mark(self, cond: Seen) -> bool:
        """Whether a token seen like this by the conditional branch is an artefact."""
        return cond.rank > self.rank and cond.prob < self.prob


#: Past the 50 tokens of the customary top-k, and less than one in a thousand.
LIMITS = ArtefactLimits()


@dataclass(frozen=True, slots=True)
class Seen:
    """The chosen token and the best alternatives, as one distribution sees them.

    Args:
        logprob: of the chosen token, nats; -inf where it is ruled out.
        rank: 1 is the most probable; one more than the number of tokens that are more probable.
        top: (token id, logprob) of the most probable tokens, best first.
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]

    @property
    def prob(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token.

    Args:
        index: its number, from 0.
        token_id: the chosen token.
        text: what it added to the text; empty for an end token and while a character is incomplete.
        guidance: one of `GUIDANCE`.
        artefact: whether it is beyond the trace's `ArtefactLimits`.
        entropy: of the conditional distribution, nats.
        shift: Jensen-Shannon divergence of the conditional and the guided distribution, bits, 0 to 1.
        divergence: the same of the conditional distribution and each branch; empty where branches were not read.
        cond, guided: the chosen token in the conditional and the guided distribution.
        branches: and in each further branch; empty where they were not read.
        kept: log-probability, in nats, of all tokens that the guide's plausibility leaves; 0 where it is off.
    """

    index: int
    token_id: int
    text: str
    guidance: str
    artefact: bool
    entropy: float
    shift: float
    divergence: tuple[float, ...]
    cond: Seen
    branches: tuple[Seen, ...]
    guided: Seen
    kept: float = 0.0

    @property
    def push(self) -> float:
        """How much guidance changed the choice: guided minus conditional log-probability of the token, nats. What
        plausibility leaves is compared with itself: that it is all there is left is not guidance's doing."""
        if math.isinf(self.guided.logprob) or math.isinf(self.cond.logprob):
            return 0.0 if self.guided.logprob == self.cond.logprob else math.copysign(math.inf, -self.cond.logprob)
        return self.guided.logprob - (self.cond.logprob - self.kept)

    @property
    def is_changed(self) -> bool:
        """Whether guidance changed which token is the most probable."""
        return [i for i, _ in self.cond.top[:1]] != [i for i, _ in self.guided.top[:1]]


@dataclass(frozen=True, slots=True)
class TracedBranch:
    """A further branch: its name, its context as text (None where there is no tokenizer), its weight."""

    name: str
    text: str | None
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """All steps of one sample, and what is needed to understand them.

    Args:
        model: its name.
        prompt: the conditional branch as text, special tokens included; None where there is no tokenizer.
        branches: the further branches that can matter.
        guide: how they were combined.
        sampling: the sampling parameters that differ from their defaults.
        seed: the request's; sample number `sample` used seed + sample.
        limits: what counts as an artefact.
        labels: token id to what it is called, for every token in the trace.
        steps: the generated tokens.
        text, finish_reason: as in the completion.
    """

    model: str
    prompt: str | None
    branches: tuple[TracedBranch, ...]
    guide: Guide
    sampling: Mapping[str, Any]
    seed: int | None
    sample: int
    limits: ArtefactLimits
    labels: Mapping[int, str]
    steps: tuple[Step, ...]
    text: str | None
    finish_reason: str

    @property
    def artefacts(self) -> tuple[Step, ...]:
        """The steps that are marked as artefacts."""
        return tuple(step for step in self.steps if step.artefact)

    def with_limits(self, limits: ArtefactLimits) -> Trace:
        """The same trace with artefacts marked by other limits."""
        steps = tuple(dataclasses.replace(step, artefact=limits.mark(step.cond)) for step in self.steps)
        return dataclasses.replace(self, limits=limits, steps=steps)
