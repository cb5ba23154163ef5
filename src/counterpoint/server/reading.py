"""From the wire's fields to the engine's requests. Every mistake that can be found before the first token is found here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from counterpoint import contexts
from counterpoint.contexts import Rendered
from counterpoint.engine import Request, prepare
from counterpoint.engine.request import NUM_SEEDS
from counterpoint.errors import TooLongError, UsageError
from counterpoint.models.model import Model
from counterpoint.server.errors import ApiError, from_usage
from counterpoint.server.limits import Limits
from counterpoint.server.schema import BAN, ChatBody, CompletionBody, Sampled
from counterpoint.server.template import blamed, written
from counterpoint.server.work import Served, Work
from counterpoint.trace.recorder import Recorder
from counterpoint.wire import (
    FORM_FIELDS,
    Calls,
    Guidance,
    read_calls,
    read_form,
    read_guidance_each,
)

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


def read_completion(served: Served, body: CompletionBody) -> Work:
    """Raises ApiError: a field can't be, on this model or within these limits."""
    model = served.model
    prompts: list[Any] = [body.prompt] if _is_one(body.prompt) else list(body.prompt)
    if body.add_special_tokens is False:
        prompts = [Rendered(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    guidances = _guidance(served, body, len(prompts), is_chat=False)
    _check_size(served.limits, body, guidances)
    # Without a token to write there is nothing to run, but what is asked for is checked all the same.
    asked = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    most = _most(served, None if asked == -1 else max(asked, 1))
    options = _options(served, body, most, body.logprobs)
    requests = [_request(served, prompt, guidance, body, options) for prompt, guidance in zip(prompts, guidances)]
    scores: list[Request | None] = [None] * len(requests)
    if body.echo and body.logprobs is not None:
        scores = [_score(served, request.prompt_ids, own, body) for request, own in zip(requests, guidances)]
    echoes = [_text(model, prompt) if body.echo else "" for prompt in prompts]
    writes = body.max_tokens != 0
    return _work(model, requests, body, echoes=echoes, scores=scores, writes=writes, logprobs=body.logprobs)


def read_chat(served: Served, body: ChatBody) -> Work:
    """Raises ApiError: a field can't be, on this model or within these limits."""
    guidances = _guidance(served, body, 1, is_chat=True)
    _check_size(served.limits, body, guidances)
    prompt, guidance = written(served, body, guidances[0])
    asked = body.max_completion_tokens or body.max_tokens
    most = _most(served, None if asked == -1 else asked)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    calls = _calls(body)
    options = _options(served, body, most, logprobs, calls)
    request = _request(served, prompt, guidance, body, options)
    return _work(served.model, [request], body, echoes=[""], scores=[None], logprobs=logprobs, calls=calls)


def _most(served: Served, asked: int | None) -> int:
    """Most tokens to write: what is asked for, or as many as fit."""
    return asked or served.limits.max_tokens or served.model.context_len or 2**31


def _calls(body: ChatBody) -> Calls | None:
    try:
        return read_calls(body.tools, body.tool_choice, parallel=body.parallel_tool_calls is not False)
    except UsageError as error:
        raise from_usage(error, "tools") from error


def _guidance(served: Served, body: Sampled, num_prompts: int, *, is_chat: bool) -> list[Guidance]:
    """What is said about guidance for each prompt."""
    fields = {name: getattr(body, name) for name in body.model_fields_set}
    try:
        return read_guidance_each(fields, num_prompts, model=served.model, models=served.models, is_chat=is_chat)
    except UsageError as error:
        raise from_usage(error, "guidance") from error


def _is_one(prompt: str | list) -> bool:
    return isinstance(prompt, str) or isinstance(prompt[0], int)


def _check_size(limits: Limits, body: Sampled, guidances: Sequence[Guidance]) -> None:
    num_prompts = len(guidances)
    total = num_prompts * body.num_drawn
    if total > limits.max_samples:
        param = "best_of" if body.num_drawn > body.num_samples else "n"
        raise ApiError(
            400, f"prompts times {param} is {total}; this server takes {limits.max_samples} a request", param=param
        )
    if body.show_branches and num_prompts > 1:
        raise ApiError(400, f"show_branches is given with {num_prompts} prompts; give one", param="show_branches")
    most = max(len(guidance.branches) for guidance in guidances)
    if most > limits.max_branches:
        raise ApiError(
            400,
            f"the request has {most} branches; this server takes {limits.max_branches}",
            param="guidance.branches",
        )


def _options(
    served: Served, body: Sampled, max_tokens: int, logprobs: int | None, calls: Calls | None = None
) -> dict[str, Any]:
    """The arguments of `prepare` beside the contexts."""
    limits, form = served.limits, _form(served.model, body, calls)
    if limits.max_tokens is not None and max_tokens > limits.max_tokens:
        raise ApiError(
            400, f"max_tokens is {max_tokens}; this server writes up to {limits.max_tokens}", param="max_tokens"
        )
    named = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop")
    options = {name: getattr(body, name) for name in named if getattr(body, name) is not None}
    if logprobs is None and body.num_drawn > body.num_samples:
        logprobs = 0  # the likeliest samples are wanted
    return (
        options
        | ({} if form is None else {"constraint": form})
        | ({} if body.loop is None else {"loop": tuple(body.loop)})
        | _watch(served, body)
        | {
            "top_k": max(body.top_k or 0, 0),
            "logit_bias": {
                int(token_id): -math.inf if bias <= BAN else bias for token_id, bias in (body.logit_bias or {}).items()
            },
            "stop_ids": body.stop_token_ids or (),
            "ignore_eos": bool(body.ignore_eos),
            "n": body.num_drawn,
            "max_tokens": max_tokens,
            "logprobs": logprobs,
            "seed": None if body.seed is None else body.seed % NUM_SEEDS,
        }
    )


def _watch(served: Served, body: Sampled) -> dict[str, Any]:
    """The watch that is asked for, and what is done at its alarms."""
    if body.watch is not None and body.watch not in served.watches:
        known = f"known are {', '.join(served.watches)}" if served.watches else "this server has none"
        raise ApiError(400, f"there is no watch {body.watch!r:.60}; {known}", param="watch")
    given = {name: getattr(body, name) for name in ("on_alarm", "max_eases") if getattr(body, name) is not None}
    if body.on_alarm == "ease" and getattr(body, "trace", None):
        raise ApiError(
            400, "on_alarm is 'ease' and a trace is asked for, which can't go back; keep one", param="on_alarm"
        )
    return given if body.watch is None else given | {"watch": served.watches[body.watch]}


def _form(model: Model, body: Sampled, calls: Calls | None) -> Any:
    """The form that the output is held to, made ready for the model."""
    try:
        form = read_form({name: getattr(body, name, None) for name in FORM_FIELDS})
    except UsageError as error:
        raise from_usage(error) from error
    if form is not None and calls is not None:
        raise ApiError(400, "a form of the output and a demanded call are both given; keep one", param="tool_choice")
    param, constraint = form or ("tools", None if calls is None else calls.constraint)
    try:
        return None if constraint is None else constraint.compile(model)
    except UsageError as error:
        raise from_usage(error, param) from error


def _request(
    served: Served,
    prompt: Any,
    guidance: Guidance,
    body: Sampled,
    options: Mapping[str, Any],
    more: Callable[[Request], Request] | None = None,
) -> Request:
    model = served.model
    try:
        request = prepare(model, prompt, branches=guidance.branches or None, guide=guidance.guide, **options)
        request = dataclasses.replace(request, min_tokens=body.min_tokens or 0) if more is None else more(request)
        _check_lens(request, served.limits)
        verdict = request.no_effect(model)
        if verdict is None:
            request.check(model)
            return request
    except UsageError as error:
        raise blamed(error, guidance, None) from error
    if guidance.guide is not None and guidance.guide.scale == 1:  # which is "off", whatever stands beside it
        return _request(served, prompt, Guidance(), body, options, more)
    is_scale = verdict.field in ("scale", "weight", "negative")
    param = (guidance.params or ("guidance_scale",))[0] if is_scale else f"guidance.{verdict.field}"
    raise ApiError(
        400,
        f"guidance changes nothing: {verdict}; change that or leave guidance out",
        param=param,
        code="no_effect",
    )


def _score(served: Served, prompt_ids: tuple[int, ...], guidance: Guidance, body: CompletionBody) -> Request | None:
    """The request that scores a prompt: its tokens after the first, given as if they were written after it, each branch
    reading them after its own context."""
    given = prompt_ids[1:]
    if not given:
        return None
    options = {
        "max_tokens": len(given), "logprobs": body.logprobs, "temperature": 0, "ignore_eos": True, "stop_ids": (),
    }  # fmt: skip
    return _request(
        served,
        prompt_ids[:1],
        guidance,
        body,
        options,
        lambda request: dataclasses.replace(request, given_ids=given),
    )


def _check_lens(request: Request, limits: Limits) -> None:
    most = limits.max_prompt_tokens
    named = [("prompt", request.prompt_ids)] + [
        (f"branches[{number}]", branch.ids) for number, branch in enumerate(request.branches)
    ]
    for param, ids in named:
        if most is not None and len(ids) > most:
            raise TooLongError(
                f"a context has {len(ids)} tokens and this server reads up to {most}; shorten it", param=param
            )


def _text(model: Model, prompt: Any) -> str:
    if isinstance(prompt, Rendered):
        return prompt.text
    return prompt if isinstance(prompt, str) else model.decode(prompt, special_tokens=True)


def _work(
    model: Model,
    requests: list[Request],
    body: Sampled,
    *,
    echoes: Sequence[str],
    scores: Sequence[Request | None],
    logprobs: int | None,
    writes: bool = True,
    calls: Calls | None = None,
) -> Work:
    shown: list[dict[str, Any] | None] = [None] * len(requests)
    if body.show_branches:
        shown = [contexts.show_read(model, request.prompt_ids, request.branches).to_dict() for request in requests]
    recorders: list[Recorder | None] = [None] * len(requests)
    if body.trace:
        recorders = [Recorder(request, num_alternatives=body.trace) for request in requests]
        requests = [dataclasses.replace(request, observe=watch) for request, watch in zip(requests, recorders)]
    return Work(
        requests=tuple(requests),
        num_samples=body.num_drawn,
        num_shown=body.num_samples,
        echoes=tuple(echoes),
        scores=tuple(scores),
        writes=writes,
        shows_logprobs=logprobs is not None,
        shows_ids=bool(body.return_token_ids),
        calls=calls,
        recorders=tuple(recorders),
        shown=tuple(shown),
        watch=body.watch,
    )
