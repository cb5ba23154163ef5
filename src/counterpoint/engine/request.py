"""What goes into the engine and what comes out: plain values."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from counterpoint.constraints.compiled import Compiled
from counterpoint.contexts import Inputs, ReadBranch
from counterpoint.engine.loops import checked_loop
from counterpoint.engine.stops import fallbacks
from counterpoint.engine.watching import MAX_EASES, Alarm, OnAlarm, Watches, check_watch
from counterpoint.errors import NoEffectWarning, SamplingError, TooLongError, UnsupportedError, warn
from counterpoint.guide import Guide, NoEffect, acting, no_effect
from counterpoint.sampling import Processor, Sampling
from counterpoint.wire.numbers import logprob

if TYPE_CHECKING:
    from counterpoint.models.model import Model

NUM_SEEDS = 2**64
FinishReason = Literal["stop", "length", "context", "loop", "alarm", "cancelled"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one step of one sequence looked like, for whoever asked to watch. Tensors are float32 log-probabilities.

    Args:
        step: number of the generated token, from 0.
        token_id: the token that was chosen.
        cond: (V,) of the conditional branch.
        others: (K, V) of the further branches; no rows where they were not read.
        guided: (V,) the guided distribution.
        applied: whether the guide took part in this step.
    """

    step: int
    token_id: int
    cond: Tensor
    others: Tensor
    guided: Tensor
    applied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt with its branches, and how to continue it.

    Args:
        prompt_ids: the conditional branch.
        inputs: what a processor made of it, where it is more than its ids.
        branches: the further branches.
        guide: how predictions are combined.
        sampling: how tokens are drawn.
        max_tokens: most tokens to generate, at least 1. Also bound by the model's context.
        min_tokens: before so many are generated, no token that ends the output is drawn, and no stop text looked for.
        given_ids: tokens that are given instead of drawn, from the first; with `logprobs` their scores are reported.
        stop: texts that end the output and are cut from it.
        stop_ids: tokens that end the output, besides the model's own.
        ignore_eos: go on past the model's own end tokens.
        seed: sample i uses seed + i; None is fresh entropy.
        num_samples: how many continuations.
        logprobs: report the chosen token's guided log-probability and those of this many best tokens; None for none.
        processors: applied in order after the penalties and before the temperature; each sample has copies of its
            own, see `engine.processors.Processors`.
        observe: called at each step with the sample's number and an `Observation`.
        constraint: a form that the output keeps, compiled for the model; every branch is conditioned on it.
        loop: (longest period, repeats); end the output once its last tokens are a passage of at most so many tokens
            written so many times in a row. None never does.
        watch: raises alarms while the text is written, such as a `counterpoint.Watch`; None does not.
        on_alarm: "mark" reports them with the completion; "stop" ends the output at the first; "ease" goes back to where
            the tokens begin that the alarm is about, and on from there with the guidance scale halved (1 at least) and
            plausibility 0.1 at least, anew at each alarm.
        max_eases: how many times at most, 0 or more; past it alarms are marked.
    """

    prompt_ids: tuple[int, ...]
    inputs: Inputs | None = None
    branches: tuple[ReadBranch, ...] = ()
    guide: Guide = field(default_factory=lambda: Guide(scale=1.0))
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    min_tokens: int = 0
    given_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    seed: int | None = None
    num_samples: int = 1
    logprobs: int | None = None
    processors: tuple[Processor, ...] = ()
    observe: Callable[[int, Observation], None] | None = None
    constraint: Compiled | None = None
    loop: tuple[int, int] | None = None
    watch: Watches | None = None
    on_alarm: OnAlarm = "mark"
    max_eases: int = MAX_EASES

    def __post_init__(self) -> None:
        for name, least in (
            ("max_tokens", 1),
            ("min_tokens", 0),
            ("max_eases", 0),
            ("num_samples", 1),
            ("logprobs", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is None and name in ("logprobs", "seed"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                said = "n" if name == "num_samples" else name  # as every caller calls it
                raise SamplingError(f"{said} is {value!r}; use a whole number, {least} or more", param=said)
        if self.seed is not None and self.seed >= NUM_SEEDS:
            raise SamplingError(f"seed is {self.seed}; use a number below 2**64", param="seed")
        if self.min_tokens > self.max_tokens:
            raise SamplingError(
                f"min_tokens is {self.min_tokens}, above max_tokens at {self.max_tokens}; lower it", param="min_tokens"
            )
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise SamplingError(f"stop is {list(self.stop)!r}; use texts of at least one character", param="stop")

        if self.constraint is not None and not isinstance(self.constraint, Compiled):
            raise SamplingError(
                f"constraint is {self.constraint!r:.60}; use one of counterpoint.constraints, compiled for the model",
                param="constraint",
            )
        if self.constraint is not None and (self.min_tokens or self.given_ids):
            other = "min_tokens" if self.min_tokens else "given_ids"
            raise SamplingError(
                f"{other} is given beside a constraint, and a form has its own tokens and end; leave one of them out",
                param=other,
            )
        kept = {"observe": self.observe, "processors": self.processors, "given_ids": self.given_ids}
        check_watch(self.watch, self.on_alarm, self.max_eases, kept)
        if self.loop is not None:
            object.__setattr__(self, "loop", checked_loop(self.loop))

    @property
    def useful_branches(self) -> tuple[ReadBranch, ...]:
        """The branches that can change a token, see `guide.acting`."""
        if self.guide.start == self.guide.stop:
            return ()
        acts = acting([b.weight for b in self.branches], [b.context for b in self.branches], self._own_context)
        return tuple(branch for branch, does in zip(self.branches, acts) if does)

    @property
    def takes_best(self) -> bool:
        """Whether nothing but the most probable token of the guided distribution is looked at."""
        sampling = self.sampling
        is_best = (sampling.greedy or sampling.top_k == 1) and not sampling.changes_order
        return is_best and self.logprobs is None and not (self.processors or self.min_tokens or self.given_ids)

    def no_effect(self, model: Model) -> NoEffect | None:
        """Why the request's guidance can do nothing on `model`; None where it can, or none is asked for."""
        return no_effect(
            self.guide,
            [b.weight for b in self.branches],
            [b.context for b in self.branches],
            self._own_context,
            num_tokens=self.room(model),
            vocab_size=model.vocab_size,
            takes_best=self.takes_best,
        )

    @property
    def _own_context(self) -> Hashable:
        return ReadBranch(self.prompt_ids, 1.0, inputs=self.inputs).context

    def check(self, model: Model) -> None:
        """Raise what makes this request impossible on `model`; warn of what changes nothing."""
        for reads, length in self._lengths(model, self.branches):
            if reads.context_len is not None and length >= reads.context_len:
                raise TooLongError(f"a context has {length} tokens and that of {reads.name} holds {reads.context_len}")
        read = [(model, self.inputs), *((branch.model or model, branch.inputs) for branch in self.branches)]
        for reads, inputs in read:
            if inputs is not None:
                reads.check_inputs(inputs)
        if self.watch is not None and self.watch.hears_states and self.inputs is not None:
            raise UnsupportedError(
                "the watch hears states, which are not heard of pictures or sounds; use a watch of numbers",
                param="watch",
            )
        for name, ids in (("logit_bias", self.sampling.logit_bias), ("stop_ids", self.stop_ids)):
            outside = [token_id for token_id in ids if not 0 <= token_id < model.vocab_size]
            if outside:
                raise SamplingError(
                    f"{name} has the token id {', '.join(map(str, outside[:20]))}; ids of {model.name} end at "
                    f"{model.vocab_size - 1}",
                    param=name,
                )
        if self.constraint is not None and not self.constraint.fits(model):
            raise SamplingError(
                f"the constraint was compiled for another vocabulary than that of {model.name}; compile it for this model",
                param="constraint",
            )
        if self.stop and model.tokenizer is None:
            raise SamplingError(f"stop texts need a tokenizer and {model.name} has none; use stop_ids", param="stop")
        if self.watch is not None:
            self.watch.check(model)
        if self.on_alarm == "ease" and not self.useful_branches:
            raise SamplingError(
                "on_alarm is 'ease' and nothing guides the text, so there is nothing to ease; use 'mark' or 'stop'",
                param="on_alarm",
            )
        for text in self.stop:
            fallbacks(text)  # made here, so that no step waits for it
        verdict = self.no_effect(model)
        if verdict is not None:
            warn(NoEffectWarning(f"guidance changes nothing: {verdict}", verdict.field))

    def room(self, model: Model) -> int:
        """Most tokens this request can generate on `model`."""
        left = [
            reads.context_len - length
            for reads, length in self._lengths(model, self.useful_branches)
            if reads.context_len is not None
        ]
        return min([self.max_tokens, *left])

    def _lengths(self, model: Model, branches: Sequence[ReadBranch]) -> list[tuple[Model, int]]:
        """For each row, which model reads it and how many tokens it begins with."""
        after = max([len(b.ids) for b in branches if b.is_suffix], default=0)
        beside = [(b.model or model, len(b.ids)) for b in branches if not b.is_suffix]
        return [(model, len(self.prompt_ids) + after), *beside]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token and the best ones of its step: (token id, natural log of the guided probability)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a completion cost, in tokens.

    Args:
        prompt_tokens: tokens of the prompt.
        branch_tokens: tokens of the further branches' contexts.
        completion_tokens: tokens generated.
        shared_tokens: tokens of prompt and branches that another row had computed already.
        shared_prompt_tokens: those of them that are the prompt's.
        guessed_tokens: generated tokens that a draft had guessed, so that they took no step of their own.
        skipped_steps: steps that the conditional branch decided alone, so that others were not read for them.
        eases: how many times the text went back after an alarm.
        discarded_tokens: tokens that were written and given up then; not among `completion_tokens`.
    """

    prompt_tokens: int
    branch_tokens: int
    completion_tokens: int
    shared_tokens: int = 0
    shared_prompt_tokens: int = 0
    guessed_tokens: int = 0
    skipped_steps: int = 0
    eases: int = 0
    discarded_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished continuation.

    Args:
        text: None where the model has no tokenizer; without the stop text.
        token_ids: all generated tokens, an end token included.
        finish_reason: "stop" (an end token or a stop text), "length" (`max_tokens`), "context" (the model holds no
            more), "loop" (see `Request.loop`), "alarm" (see `Request.on_alarm`), or "cancelled".
        index: number of the sample, from 0.
        logprobs: of each token, where they were asked for.
        complete: whether the output keeps its constraint as a whole; False where it was cut short. None without one.
        constraint_mass: how hard the constraint pulled: the probability that the prompt's branch by itself gave to the
            tokens that the constraint allowed, as the geometric mean over the steps that left a choice. 1 is not at all.
            None without a constraint, or where there was no choice.
        alarms: those of the request's watch, in the order they were raised; None without a watch.

    `str()` is the text.
    """

    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    complete: bool | None = None
    constraint_mass: float | None = None
    alarms: tuple[Alarm, ...] | None = None

    def __str__(self) -> str:
        return " ".join(map(str, self.token_ids)) if self.text is None else self.text

    def _repr_html_(self) -> str:
        told = f"{self.finish_reason}, {self.usage.completion_tokens} tokens"
        return f'<div style="white-space: pre-wrap">{html.escape(str(self))}</div><small>{told}</small>'


@dataclass(frozen=True, slots=True)
class Progress:
    """One new token of one sample.

    Args:
        request_id: what `Engine.add` returned.
        index: number of the sample.
        token_id: the token; None when the request was cancelled or failed.
        text: what can be shown now; may be empty while a character or a stop text is incomplete.
        logprob: where `Request.logprobs` asked for it.
        completion: the whole, once it is finished.
        error: what ended the sample instead, where something failed.
    """

    request_id: int
    index: int
    token_id: int | None
    text: str
    logprob: TokenLogprob | None = None
    completion: Completion | None = None
    error: Exception | None = None


def describe(completion: Completion) -> dict[str, Any]:
    """A completion as plain JSON values."""
    record: dict[str, Any] = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "usage": {name: getattr(completion.usage, name) for name in Usage.__slots__},
    }
    for name in ("complete", "constraint_mass"):
        if getattr(completion, name) is not None:
            record[name] = getattr(completion, name)
    if completion.alarms is not None:
        record["alarms"] = [dataclasses.asdict(alarm) for alarm in completion.alarms]
    if completion.logprobs is not None:
        record["logprobs"] = [
            {"token_id": t.token_id, "logprob": logprob(t.logprob), "top": [list(pair) for pair in t.top]}
            for t in completion.logprobs
        ]
    return record
