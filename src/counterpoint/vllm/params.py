"""What a request says about guidance, read from one place: the `extra_args` of its sampling parameters.

They hold the fields of `counterpoint.wire`. A branch can read a text, token ids, or the last tokens of the prompt; with the
middleware, conversations are token ids by then.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint.contexts.kinds import LastTokens
from counterpoint.errors import GuideError, NoEffectWarning, UnsupportedError
from counterpoint.guide import DEFAULT_SCALE, Branch, Guide, NoEffect, acting, no_effect
from counterpoint.wire import GUIDANCE_FIELDS, Guidance, read_guidance
from counterpoint.wire.branches import ids_from_wire, text_from_wire

SCALE, NEGATIVE, NEGATIVE_IDS, GUIDANCE = "guidance_scale", "negative_prompt", "negative_prompt_ids", "guidance"

SCHEDULER = "counterpoint.vllm.scheduler.GuidedScheduler"
WORKER = "counterpoint.vllm.worker.GuidedWorker"
CHECK = "counterpoint.vllm.check:GuidanceCheck"
MIDDLEWARE = "counterpoint.vllm.middleware.GuidanceMiddleware"

Context = str | tuple[int, ...] | LastTokens


@dataclass(frozen=True, slots=True)
class Plan:
    """A request's guidance. `contexts[k]` has the weight `weights[k]`; branches that could do nothing are left out."""

    guide: Guide
    contexts: tuple[Context, ...]
    weights: tuple[float, ...]


def read(args: Mapping[str, Any] | None) -> Plan | None:
    """The plan that `extra_args` ask for; None where they ask for none.

    Raises:
        GuideError, PromptError, FieldError: a field has no meaning, or the guidance could do nothing.
        UnsupportedError: a branch reads what vLLM has no row for.
    """
    asked = read_guidance({name: args[name] for name in GUIDANCE_FIELDS if name in args}) if args else Guidance()
    if asked.guide is None:
        return None
    branches = branches_of(asked, [branch.context for branch in asked.branches])
    contexts, weights = [branch.context for branch in branches], asked.guide.weights(branches)
    verdict = no_effect(asked.guide, weights, contexts)
    if verdict is not None:
        raise refused_as_idle(verdict)
    kept = [pair for pair, acts in zip(zip(contexts, weights), acting(weights, contexts), strict=True) if acts]
    return Plan(asked.guide, tuple(context for context, _ in kept), tuple(weight for _, weight in kept))


def branches_of(asked: Guidance, contexts: Sequence[Any]) -> tuple[Branch, ...]:
    """The further branches of a request with these contexts; without any, the last token of the prompt.

    Raises:
        UnsupportedError: a branch reads what vLLM has no row for.
    """
    for context, param in zip(contexts, asked.params, strict=True):
        if not isinstance(context, (str, tuple, LastTokens)):
            raise UnsupportedError(
                f"{param} is a {type(context).__name__.lower()}, which vLLM can't guide by; use a text, token ids, "
                "last_tokens or, in a chat, messages",
                param=param,
            )
    branches = (dataclasses.replace(branch, context=one) for branch, one in zip(asked.branches, contexts, strict=True))
    # At scale 1 what is asked for is the plausibility of the prompt's own tokens.
    return tuple(branches) or (() if asked.guide.scale == 1 else (Branch(LastTokens()),))


def branches_on_the_wire(branches: Sequence[Branch]) -> list[dict[str, Any]]:
    """Branches as JSON objects, which `read` reads back."""
    return [_written(branch) for branch in branches]


def refused_as_idle(verdict: NoEffect) -> GuideError:
    """The error of guidance that could change no token."""
    return GuideError(
        f"the guidance has no effect: {verdict}; change that, or leave the guidance out", param=verdict.field
    )


def extra_args(guide: Guide, negative: str | Sequence[int] | None = None, *, branches: Sequence[Branch] = ()) -> dict:
    """The `extra_args` of `SamplingParams` for one request: `SamplingParams(extra_args=extra_args(guide, "..."))`.

    Args:
        guide: what to do with the branches' predictions.
        negative: a text or token ids; with neither it nor `branches`, the last token of the prompt is the negative.
        branches: further branches, their contexts texts or token ids, a weight each where they have one.

    Raises:
        GuideError, PromptError, UnsupportedError: as `read`. A negative at scale 1 is a `NoEffectWarning` and left out.
    """
    args: dict[str, Any] = {}
    fields: dict[str, Any] = guide.to_dict()
    if "scale" in fields:
        args[SCALE] = fields.pop("scale")
    if guide.scale == 1 and negative is not None:
        warnings.warn("the negative changes nothing at guidance scale 1", NoEffectWarning, stacklevel=2)
        negative = None
    if isinstance(negative, str):
        args[NEGATIVE] = text_from_wire(negative, "negative", NEGATIVE)
    elif negative is not None:
        args[NEGATIVE_IDS] = list(ids_from_wire(negative, "negative", NEGATIVE_IDS))
    if branches:
        fields["branches"] = branches_on_the_wire(branches)
    if fields:
        args[GUIDANCE] = fields
    elif not args:
        args[SCALE] = DEFAULT_SCALE  # what a guide means that says nothing
    read(args)
    return args


def engine_args() -> dict[str, Any]:
    """What `vllm.LLM` needs for guidance: `LLM(MODEL, **engine_args())`."""
    return {
        "scheduler_cls": SCHEDULER,
        "worker_cls": WORKER,
        "logits_processors": [CHECK],
        "async_scheduling": False,
    }


def _written(branch: Branch) -> dict[str, Any]:
    context = branch.context
    if isinstance(context, LastTokens):
        fields: dict[str, Any] = {"last_tokens": context.count}
    else:
        fields = {"prompt": context} if isinstance(context, str) else {"prompt_ids": list(context)}
    return fields if branch.weight is None else {**fields, "weight": branch.weight}
