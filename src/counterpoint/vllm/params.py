"""What a request says about guidance, read from one place: the `extra_args` of its sampling parameters.

    guidance_scale       a number
    negative_prompt      a text
    negative_prompt_ids  token ids, instead of the text
    guidance             the other arguments of the guide, and `branches`: an object, or its JSON text (`vllm_xargs`
                         carry no objects), or a guide's own text form, `space=prob,plausibility=0.1`

A branch is `{"prompt": TEXT}` or `{"prompt_ids": [...]}`, with an optional `"weight"`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint.errors import GuideError, NoEffectWarning, PromptError
from counterpoint.guide import Branch, Guide, acting, finite, no_effect

SCALE, NEGATIVE, NEGATIVE_IDS, GUIDANCE = "guidance_scale", "negative_prompt", "negative_prompt_ids", "guidance"
FIELDS = (SCALE, NEGATIVE, NEGATIVE_IDS, GUIDANCE)
BRANCH_FIELDS = ("prompt", "prompt_ids", "weight")

SCHEDULER = "counterpoint.vllm.scheduler.GuidedScheduler"
WORKER = "counterpoint.vllm.worker.GuidedWorker"
CHECK = "counterpoint.vllm.check:GuidanceCheck"
MIDDLEWARE = "counterpoint.vllm.middleware.GuidanceMiddleware"


@dataclass(frozen=True, slots=True)
class Plan:
    """A request's guidance. `contexts[k]` has the weight `weights[k]`; branches of weight 0 are left out.

    A context is a text, token ids, or None for the last token of the prompt.
    """

    guide: Guide
    contexts: tuple[str | tuple[int, ...] | None, ...]
    weights: tuple[float, ...]


def read(args: Mapping[str, Any] | None) -> Plan | None:
    """The plan that `extra_args` ask for; None where nothing has to be done to the distribution.

    Raises:
        GuideError, PromptError: a field has no meaning, or could have no effect.
    """
    if not args or not any(name in args for name in FIELDS):
        return None
    fields = guidance_fields(args.get(GUIDANCE))
    listed = fields.pop("branches", None)
    if SCALE in args:
        if "scale" in fields:
            raise GuideError(f"guidance has a scale beside guidance_scale {args[SCALE]!r}; keep one")
        fields["scale"] = finite("guidance_scale", args[SCALE])
    guide = Guide.from_dict(fields)
    branches = [*_negative(args), *_branches(listed)]
    given = bool(branches)
    branches = branches or [Branch(None)]
    weights = guide.weights(branches)
    contexts = tuple(branch.context for branch in branches)
    verdict = no_effect(guide, weights, contexts)
    if verdict is not None and given:
        raise GuideError(f"the negative can have no effect: {verdict}; change that or leave the negative out")
    acts = acting(weights, contexts)
    if guide.start == guide.stop or (not any(acts) and not guide.plausibility):
        return None
    kept = [pair for pair, does in zip(zip(contexts, weights, strict=True), acts, strict=True) if does]
    return Plan(guide, tuple(context for context, _ in kept), tuple(weight for _, weight in kept))


def extra_args(guide: Guide, negative: str | Sequence[int] | None = None, *, branches: Sequence[Branch] = ()) -> dict:
    """The `extra_args` of `SamplingParams` for one request: `SamplingParams(extra_args=extra_args(guide, "..."))`.

    Args:
        guide: what to do with the branches' predictions.
        negative: a text or token ids; with neither it nor `branches`, the last token of the prompt is the negative.
        branches: further branches, their contexts texts or token ids, a weight each where they have one.

    Raises:
        GuideError, PromptError: as `read`. A negative that can change nothing is a `NoEffectWarning` and left out.
    """
    args: dict[str, Any] = {}
    fields: dict[str, Any] = guide.to_dict()
    if "scale" in fields:
        args[SCALE] = fields.pop("scale")
    if guide.scale == 1 and negative is not None:
        warnings.warn("the negative changes nothing at guidance scale 1", NoEffectWarning, stacklevel=2)
        negative = None
    if negative is not None:
        args[NEGATIVE if isinstance(negative, str) else NEGATIVE_IDS] = (
            negative if isinstance(negative, str) else list(negative)
        )
    if branches:
        fields["branches"] = [_written(branch) for branch in branches]
    if fields or not args:
        args[GUIDANCE] = fields
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


def guidance_fields(value: Any) -> dict[str, Any]:
    """The fields of `guidance`, whichever way it is written; always a new dict."""
    if value is None:
        return {}
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("{"):
            return Guide.parse(text).to_dict()
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise GuideError(f'guidance is no JSON: {error}; write an object such as {{"space": "prob"}}') from None
    if not isinstance(value, Mapping):
        raise GuideError(f'guidance is {value!r}; use an object such as {{"space": "prob"}}')
    return {name: given for name, given in value.items() if given is not None}


def _negative(args: Mapping[str, Any]) -> list[Branch]:
    if NEGATIVE in args and NEGATIVE_IDS in args:
        raise PromptError("negative_prompt and negative_prompt_ids are both given; keep one")
    if NEGATIVE in args:
        return [Branch(_text(NEGATIVE, args[NEGATIVE]))]
    return [Branch(_ids(NEGATIVE_IDS, args[NEGATIVE_IDS]))] if NEGATIVE_IDS in args else []


def _branches(listed: Any) -> list[Branch]:
    if listed is None:
        return []
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise GuideError(f"branches is {listed!r}; use a list of objects with a prompt and a weight")
    return [_branch(fields) for fields in listed]


def _branch(fields: Any) -> Branch:
    if not isinstance(fields, Mapping):
        raise GuideError(f"a branch is {fields!r}; use an object with a prompt and a weight")
    for name in fields:
        if name not in BRANCH_FIELDS:
            raise GuideError(f"a branch has {name!r}, which vLLM can't guide by; use {', '.join(BRANCH_FIELDS)}")
    if ("prompt" in fields) == ("prompt_ids" in fields):
        raise PromptError("a branch needs one of prompt and prompt_ids")
    context = _text("prompt", fields["prompt"]) if "prompt" in fields else _ids("prompt_ids", fields["prompt_ids"])
    return Branch(context, fields.get("weight"))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise PromptError(f"{name} is {value!r}; use a text that is not empty")
    return value


def _ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise PromptError(f"{name} is {value!r}; use a list of token ids that is not empty")
    for token_id in value:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise PromptError(f"{name} has {token_id!r}; use token ids, 0 or more")
    return tuple(value)


def _written(branch: Branch) -> dict[str, Any]:
    text = isinstance(branch.context, str)
    fields: dict[str, Any] = {"prompt": branch.context} if text else {"prompt_ids": list(branch.context)}
    return fields if branch.weight is None else {**fields, "weight": branch.weight}
