"""What to do with the branches' predictions: `Guide`, and which branches there are: `Branch`. Plain values, no tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from counterpoint.errors import GuideError

SPACES = ("log", "prob")
ADAPTIVE = ("jsd",)
DEFAULT_SCALE = 1.5
MOST_WEIGHT = 1e6  # of a scale or weight; far below what a sum in float32 overflows at
CANCELLED = 1e-12  # weights as 0.1 + 0.2 - 0.3 are meant to be 0


@dataclass(frozen=True, slots=True)
class Guide:
    """How the branches' predictions become one distribution. Neutral at `scale=1`.

    `log` space:   g = l_c + sum_b w_b * (l_b - l_c), renormalised   (Sanchez et al. 2023, arXiv 2306.17806)
    `prob` space:  q = p_c + sum_b w_b * (p_b - p_c), clamped at 0, renormalised   (Smirnov 2024, arXiv 2412.06846)

    where a branch without a weight of its own has `w_b = 1 - scale`.

    Args:
        scale: guidance scale, within -1e6 and 1e6. 1 is unguided, 0 is the negative's own continuation, usual 1.25 to 3.
            None means `DEFAULT_SCALE` for branches that have no weight of their own.
        space: "log" or "prob".
        plausibility: in [0, 1]; keep token i only if p_c(i) >= plausibility * max p_c (arXiv 2210.15097). 0 is off.
        gate: nats, >= 0; guide only where the entropy of p_c is at least this (arXiv 2510.13940). 0 is off.
        start, stop: guide only generated tokens start <= i < stop, counted from 0; stop None is no end.
        adaptive: "jsd" multiplies every weight by the Jensen-Shannon divergence in bits of p_c and p_b at each
            step (arXiv 2409.07394, which is scale 2); None is off.

    Raises:
        GuideError: a value is out of its range.
    """

    scale: float | None = None
    _: KW_ONLY
    space: str = "log"
    plausibility: float = 0.0
    gate: float = 0.0
    start: int = 0
    stop: int | None = None
    adaptive: str | None = None

    def __post_init__(self) -> None:
        if self.scale is not None:
            object.__setattr__(self, "scale", weighty("guidance scale", self.scale))
        if self.space not in SPACES:
            raise GuideError(f"space is {self.space!r}; use one of {', '.join(SPACES)}", param="space")
        object.__setattr__(self, "plausibility", finite("plausibility", self.plausibility))
        if not 0 <= self.plausibility <= 1:
            raise GuideError(f"plausibility is {self.plausibility}; use a number from 0 to 1", param="plausibility")
        object.__setattr__(self, "gate", finite("gate", self.gate))
        if self.gate < 0:
            raise GuideError(f"gate is {self.gate}; use nats of entropy, 0 or more", param="gate")
        _step("start", self.start)
        if self.stop is not None:
            _step("stop", self.stop)
            if self.stop < self.start:
                raise GuideError(f"stop is {self.stop}, before start at {self.start}; use start <= stop", param="stop")
        if self.adaptive is not None and self.adaptive not in ADAPTIVE:
            raise GuideError(f"adaptive is {self.adaptive!r}; use {ADAPTIVE[0]!r} or None", param="adaptive")

    def weights(self, branches: Sequence[Branch]) -> tuple[float, ...]:
        """The weight of each branch: its own, or `1 - scale`.

        Raises:
            GuideError: `scale` was given and every branch has a weight, so that it could have no effect.
        """
        if self.scale is not None and branches and all(b.weight is not None for b in branches):
            raise GuideError(
                f"scale is {self.scale} and every branch has a weight of its own, so the scale would do nothing; "
                "leave one of them out",
                param="scale",
            )
        shared = 1.0 - (DEFAULT_SCALE if self.scale is None else self.scale)
        return tuple(shared if b.weight is None else b.weight for b in branches)

    def active(self, step: int) -> bool:
        """Whether generated token number `step` (from 0) lies between `start` and `stop`."""
        return self.start <= step and (self.stop is None or step < self.stop)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from the defaults, ready for JSON; `Guide.from_dict` reads it back."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Guide:
        """A guide from its fields. An unknown field is a `GuideError` that names it."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise GuideError(f"unknown guide field {name!r}; known are {', '.join(known)}", param=name)
        return cls(**fields)

    def __str__(self) -> str:
        """The text form, `scale=3.0,space=prob`; `Guide.parse` reads it back."""
        return ",".join(f"{name}={value}" for name, value in self.to_dict().items())

    @classmethod
    def parse(cls, text: str) -> Guide:
        """A guide from `name=value` pairs, comma-separated, as `str(guide)` writes them."""
        fields: dict[str, Any] = {}
        for pair in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = pair.partition("=")
            name, value = name.strip(), value.strip()
            if not equals:
                raise GuideError(f"{pair!r} is not name=value; write a guide as scale=3,space=prob")
            if name in fields:
                raise GuideError(f"{name} is given twice in {text!r}; keep one")
            fields[name] = _read(name, value)
        return cls.from_dict(fields)


@dataclass(frozen=True, slots=True)
class Branch:
    """A further context that is read beside the prompt.

    Args:
        context: a text, token ids, or one of the contexts of `counterpoint.contexts`.
        weight: within -1e6 and 1e6; negative pushes away, positive pulls towards. None takes `1 - scale` from the guide.

    Raises:
        GuideError: the weight is no number, or out of its range.
    """

    context: Any
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.weight is not None:
            object.__setattr__(self, "weight", weighty("weight of a branch", self.weight))


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Why guidance can do nothing. `str()` gives the reason.

    Args:
        field: the argument that is the cause: "scale", "weight", "negative", "start", "stop", "gate" or "plausibility".
        reason: a clause that goes on after "this changes nothing: ".
    """

    field: str
    reason: str

    def __str__(self) -> str:
        return self.reason


class _Unknown:
    """A context that is not known yet; equal to no other."""


def no_effect(
    guide: Guide,
    weights: Sequence[float],
    contexts: Sequence[Hashable],
    prompt: Hashable = _Unknown,
    *,
    num_tokens: int | None = None,
    vocab_size: int | None = None,
    takes_best: bool = False,
) -> NoEffect | None:
    """THE verdict on guidance that can change no token, whatever the model predicts; None where it can, or none is asked.

    Surfaces choose what to make of it: a warning, or an error over HTTP.

    Args:
        guide: its plausibility asks for something without any branch too.
        weights: (K) of the further branches.
        contexts: (K) what each branch reads, as values that are equal where they predict the same.
        prompt: what the conditional branch reads, likewise; left out where it is not known yet.
        num_tokens: most tokens that can be generated; None where that is not known yet.
        vocab_size: number of token ids; None where it is not known yet.
        takes_best: nothing but the most probable token of the guided distribution is looked at: greedy choice
            without penalties, processors, constraints and reported log-probabilities.
    """
    if not weights and not guide.plausibility:
        return None
    if guide.stop == guide.start:
        return NoEffect("stop", f"it starts and stops at token {guide.start}")
    if num_tokens is not None and guide.start >= num_tokens:
        return NoEffect("start", f"it starts at token {guide.start} and the output has at most {num_tokens}")
    if vocab_size is not None and guide.gate > math.log(vocab_size):
        most = math.log(vocab_size)
        return NoEffect(
            "gate", f"the gate is {guide.gate} nats and the entropy of {vocab_size} tokens at most {most:.2f}"
        )
    if takes_best and guide.plausibility == 1:
        return NoEffect(
            "plausibility", "plausibility 1 leaves the prompt's best token, which greedy choice takes anyway"
        )
    if any(acting(weights, contexts, prompt)):
        return None
    if not weights:
        if not takes_best:
            return None
        return NoEffect("plausibility", "greedy choice takes the prompt's best token, which is always plausible")
    return _idle(guide, weights, contexts, prompt)


def acting(weights: Sequence[float], contexts: Sequence[Hashable], prompt: Hashable = _Unknown) -> list[bool]:
    """For each further branch, whether it can change the distribution: it differs from the prompt, and the weights of all
    branches with its context have a sum other than 0. Arguments as in `no_effect`."""
    sums: dict[Hashable, list[float]] = {}
    for weight, context in zip(weights, contexts, strict=True):
        sums.setdefault(context, []).append(weight)
    nets = {context: math.fsum(parts) for context, parts in sums.items()}
    return [
        weight != 0 and context != prompt and abs(nets[context]) > CANCELLED * max(map(abs, sums[context]))
        for weight, context in zip(weights, contexts, strict=True)
    ]


def _idle(guide: Guide, weights: Sequence[float], contexts: Sequence[Hashable], prompt: Hashable) -> NoEffect:
    """Why branches do nothing of which none is `acting`."""
    if not any(weights):
        if guide.scale == 1:
            return NoEffect("scale", "the guidance scale is 1, which gives the negative a weight of 0")
        return NoEffect("weight", "every branch has a weight of 0")
    weighted = [context for weight, context in zip(weights, contexts) if weight]
    others = [context for context in weighted if context != prompt]
    if not others:
        return NoEffect(
            "negative",
            "the negative equals the prompt" if len(weights) == 1 else "the branches with a weight equal the prompt",
        )
    rest = "" if len(others) == len(weighted) else ", and the others equal the prompt"
    return NoEffect("weight", f"the weights of branches with the same context cancel{rest}")


def finite(name: str, value: Any) -> float:
    """`value` as a float; a `GuideError` that names it where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise GuideError(f"{name} is {value!r}; use a number", param=name.removeprefix("guidance "))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise GuideError(f"{name} is {value}; use a finite number", param=name.removeprefix("guidance "))
    return number


def weighty(name: str, value: Any) -> float:
    """`value` as a float, where predictions or states times it stay numbers; a `GuideError` that names it otherwise."""
    number = finite(name, value)
    if abs(number) > MOST_WEIGHT:
        raise GuideError(
            f"{name} is {value}; use a number from -{MOST_WEIGHT:.0f} to {MOST_WEIGHT:.0f}",
            param=name.removeprefix("guidance "),
        )
    return number


def _step(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GuideError(f"{name} is {value!r}; use a count of tokens, 0 or more", param=name)


def _read(name: str, value: str) -> Any:
    if value == "None":
        return None
    if name in ("space", "adaptive"):
        return value
    try:
        return int(value) if name in ("start", "stop") else float(value)
    except ValueError:
        raise GuideError(f"{name} is {value!r}; use a number", param=name) from None
