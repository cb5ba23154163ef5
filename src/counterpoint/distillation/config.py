"""How a guide is distilled, as values: which answers are written, and how an adapter learns from them. No tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from counterpoint.errors import UsageError

TARGETS = ("distribution", "samples")
ALL_LINEAR = "all-linear"


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}; use a whole number, {least} or more", param=name)


def _number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (above and value == low):
        bounds = f"above {low:g}" if above else f"{low:g} or more"
        bounds += "" if math.isinf(high) else f", {high:g} at most"
        raise UsageError(f"{name} is {value!r}; use a number {bounds}", param=name)


@dataclass(frozen=True, slots=True)
class Adapter:
    """The shape of the LoRA.

    Args:
        rank: of each pair of matrices, 1 or more. vLLM takes up to its --max-lora-rank, 16 unless told otherwise.
        alpha: the pair is multiplied by alpha / rank; None is twice the rank.
        modules: names of linear layers, or "all-linear" for all but the head.
        dropout: of what the pair reads while it learns, 0 to 1.

    Source: Hu et al. 2021, arXiv 2106.09685.
    """

    rank: int = 16
    _: KW_ONLY
    alpha: float | None = None
    modules: str | tuple[str, ...] = ALL_LINEAR
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _whole("rank", self.rank, 1)
        if self.alpha is not None:
            _number("alpha", self.alpha, 0, math.inf, above=True)
        _number("dropout", self.dropout, 0, 1)
        names = (self.modules,) if isinstance(self.modules, str) else tuple(self.modules)
        object.__setattr__(self, "modules", ALL_LINEAR if ALL_LINEAR in names else names)
        if not names or any(not isinstance(name, str) or not name.strip() for name in names):
            raise UsageError(
                f"modules is {self.modules!r}; give names of linear layers, or {ALL_LINEAR!r}", param="modules"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of layers; none for all that are linear."""
        return () if isinstance(self.modules, str) else self.modules

    @property
    def scaling(self) -> float:
        """alpha as it is used."""
        return 2.0 * self.rank if self.alpha is None else float(self.alpha)


@dataclass(frozen=True, slots=True)
class Training:
    """How the adapter learns.

    Args:
        target: "distribution" learns what guidance predicts at each token of an answer; "samples" the tokens alone.
        top: with "distribution", so many most probable tokens are told apart and all others count as one; 0 tells all
            apart, which needs the branches to be read at every step.
        epochs: how often every answer is read.
        batch: answers a step.
        together: answers a forward, at most; memory grows with it, the result does not but for rounding.
        rate: of AdamW, at its highest. It rises over the first `warmup` of the steps and falls to 0 in a line.
        warmup: a share, 0 to 1.
        weight_decay: of AdamW.
        clip: the largest norm of a step's gradient.
        keep_weight: how much a token of the texts to keep counts, beside one of an answer.
        measure_every: steps between measurements on what is held out; 0 measures at the end alone.
        checkpoint_s: seconds between checkpoints; 0 writes one at every step.
    """

    target: str = "distribution"
    _: KW_ONLY
    top: int = 64
    epochs: int = 3
    batch: int = 8
    together: int = 4
    rate: float = 5e-4
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    keep_weight: float = 1.0
    measure_every: int = 0
    checkpoint_s: float = 60.0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(f"target is {self.target!r}; use one of {', '.join(TARGETS)}", param="target")
        for name, least in (("top", 0), ("epochs", 1), ("batch", 1), ("together", 1), ("measure_every", 0)):
            _whole(name, getattr(self, name), least)
        for name in ("rate", "clip"):
            _number(name, getattr(self, name), 0, math.inf, above=True)
        for name in ("weight_decay", "keep_weight", "checkpoint_s"):
            _number(name, getattr(self, name), 0, math.inf)
        _number("warmup", self.warmup, 0, 1)

    def rate_at(self, step: int, num_steps: int) -> float:
        """The share of `rate` that step number `step` (from 0) has: up in a line, then down in a line, above 0."""
        rising = math.ceil(self.warmup * num_steps)
        if step < rising:
            return (step + 1) / rising
        return (num_steps - step) / max(1, num_steps - rising)


@dataclass(frozen=True, slots=True)
class Writing:
    """How the guided answers are written and chosen.

    Args:
        candidates: answers to each prompt, of which the best one is kept: of those that keep all rules, the one with the
            highest guided log-probability a token.
        sampling: options of `counterpoint.generate` that JSON can hold, such as max_tokens and temperature.
        held_out: share of the prompts that is kept from training, to measure on; 0 to below 1.
        max_rows: of the engine; more rows are quicker and take more memory.
    """

    candidates: int = 1
    _: KW_ONLY
    sampling: Mapping[str, Any] = field(default_factory=dict)
    held_out: float = 0.1
    max_rows: int = 64

    def __post_init__(self) -> None:
        _whole("candidates", self.candidates, 1)
        _whole("max_rows", self.max_rows, 2)
        _number("held_out", self.held_out, 0, 1)
        if self.held_out == 1:
            raise UsageError("held_out is 1, which leaves nothing to learn from; use a share below 1", param="held_out")
        if self.candidates > 1 and self.sampling.get("temperature", 1.0) == 0:
            raise UsageError(
                f"candidates is {self.candidates} and temperature is 0, so all would be the same; use a temperature",
                param="candidates",
            )
        for name in ("n", "logprobs", "observe", "seed", "constraint", "processors"):
            if name in self.sampling:
                raise UsageError(f"sampling has {name!r}, which distilling sets itself or can't keep; leave it out")


def plain(value: Any) -> dict[str, Any]:
    """A value of this room as JSON has it."""
    return {name: list(one) if isinstance(one, tuple) else one for name, one in asdict(value).items()}
