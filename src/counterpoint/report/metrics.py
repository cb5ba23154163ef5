"""What a set of traces amounts to, in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from counterpoint.trace import Trace


@dataclass(frozen=True, slots=True)
class Metrics:
    """Measured over all tokens of all samples, end tokens included.

    Args:
        num_tokens: tokens generated.
        num_artefacts: those marked as artefacts.
        artefact_rate: their share, 0 to 1.
        distinct: of 1-, 2- and 3-grams of tokens, the share that is different, 0 to 1; None where there is none
            (Li et al. 2016, arXiv 1510.03055, with the number of n-grams below the line).
        mean_logprob: mean log-probability of the tokens under the conditional branch alone, nats; -inf where one of
            them is ruled out by it.
        contrast: mean of that minus the log-probability under the negative, nats: how far the text leans from the
            negative towards the prompt. None where the negative was not read.
    """

    num_tokens: int
    num_artefacts: int
    artefact_rate: float
    distinct: tuple[float | None, float | None, float | None]
    mean_logprob: float
    contrast: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain JSON values; minus infinity is null."""
        return {
            "num_tokens": self.num_tokens,
            "num_artefacts": self.num_artefacts,
            "artefact_rate": self.artefact_rate,
            **{f"distinct_{n}": value for n, value in enumerate(self.distinct, 1)},
            "mean_logprob": self.mean_logprob if math.isfinite(self.mean_logprob) else None,
            "contrast": self.contrast,
        }


def measure(traces: Sequence[Trace]) -> Metrics:
    """The metrics of one or more samples."""
    steps = [step for trace in traces for step in trace.steps]
    num_artefacts = sum(step.artefact for step in steps)
    leans = [
        step.cond.logprob - step.branches[0].logprob
        for step in steps
        if step.branches and math.isfinite(step.cond.logprob) and math.isfinite(step.branches[0].logprob)
    ]
    return Metrics(
        num_tokens=len(steps),
        num_artefacts=num_artefacts,
        artefact_rate=num_artefacts / len(steps),
        distinct=(distinct(traces, 1), distinct(traces, 2), distinct(traces, 3)),
        mean_logprob=sum(step.cond.logprob for step in steps) / len(steps),
        contrast=sum(leans) / len(leans) if leans else None,
    )


def distinct(traces: Sequence[Trace], n: int) -> float | None:
    """Different n-grams of tokens by all n-grams; None where no sample is that long."""
    grams: list[tuple[int, ...]] = []
    for trace in traces:
        ids = [step.token_id for step in trace.steps]
        grams += [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
