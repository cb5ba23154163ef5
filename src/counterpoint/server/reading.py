"""From the wire's fields to the engine's requests. Every mistake that can be found before the first token is found here."""

from __future__ import annotations

import dataclasses
import inspect
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
from counterpoint.server.work import Served, Work
from counterpoint.trace.recorder import Recorder
from counterpoint.wire import (
    FORM_FIELDS,
    Calls,
    Guidance,
    messages_from_wire,
    read_calls,
    read_form,
    read_guidance,
    tool_names,
)

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


def read_completion(served: Served, body: CompletionBody) -> Work:
    """Raises ApiError: a field can't be, on this model or within these limits."""
    model = served.model
    prompts: list[Any] = [body.prompt] if _is_one(body.prompt) else list(body.prompt)
    if body.add_special_tokens is False:
        prompts = [Rendered(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    guidance = _guidance(served, body, is_chat=False)
    _check_size(served.limits, body, len(prompts), guidance)
    # Without a token to write there is nothing to run, but what is asked for is checked all the same.
    most = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
    options = _options(served, body, most, body.logprobs)
    requests = [_request(served, prompt, guidance, body, options) for prompt in prompts]
    scores: list[Request | None] = [None] * len(requests)
    if body.echo and body.logprobs is not None:
        scores = [_score(served, request.prompt_ids, guidance, body) for request in requests]
    echoes = [_text(model, prompt) if body.echo else "" for prompt in prompts]
    writes = body.max_tokens != 0
    return _work(model, requests, body, echoes=echoes, scores=scores, writes=writes, logprobs=body.logprobs)


def read_chat(served: Served, body: ChatBody) -> Work:
    """Raises ApiError: a field can't be, on this model or within these limits."""
    guidance = _guidance(served, body, is_chat=True)
    _check_size(served.limits, body, 1, guidance)
    prompt, guidance = chat_prompt(served, body, guidance)
    most = (
        body.max_completion_tokens or body.max_tokens or served.limits.max_tokens or served.model.context_len or 2**31
    )
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    calls = _calls(body)
    options = _options(served, body, most, logprobs, calls)
    request = _request(served, prompt, guidance, body, options)
    return _work(served.model, [request], body, echoes=[""], scores=[None], logprobs=logprobs, calls=calls)


def _calls(body: ChatBody) -> Calls | None:
    try:
        return read_calls(body.tools, body.tool_choice, parallel=body.parallel_tool_calls is not False)
    except UsageError as error:
        raise from_usage(error, "tools") from error


def chat_prompt(served: Served, body: Any, guidance: Guidance = Guidance()) -> tuple[Any, Guidance]:  # noqa: B008
    """A conversation as a prompt, and the guidance with its branches written by the same template.

    Raises:
        ApiError: the model has no template, or it refuses the conversation or a branch.
    """
    model = served.model
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise ApiError(
            400,
            f"the model {model.name} has no chat template, so it can't be chatted with; use /v1/completions",
            param="messages",
            code="no_chat_template",
        )
    try:
        names = tool_names(body.tools or ())
    except UsageError as error:
        raise from_usage(error, "tools") from error
    how = {"continue_final": bool(body.continue_final_message), "template": template_options(model, body)}
    try:
        messages = messages_from_wire(body.messages)
        if not guidance.branches:
            prompt, branches = contexts.chat_prompt(model, messages, **how), ()
        else:
            built = contexts.chat(model, messages, branches=guidance.branches, **how)
            prompt, branches = built.prompt, built.branches
    except UsageError as error:
        raise _blamed(error, guidance, "messages") from error
    if getattr(body, "tool_choice", None) != "none":
        _check_shown(model, names, prompt)
    # What a template writes has its special tokens in it, so that the tokenizer adds none unless it is told to.
    prompt = prompt.text if body.add_special_tokens else prompt
    return prompt, dataclasses.replace(guidance, branches=tuple(branches))


def template_options(model: Model, body: Any) -> dict[str, Any]:
    """The further arguments of the model's template that a request gives.

    Raises:
        ApiError: one is not the template's but of the function that runs it, or it is unknown to the template.
    """
    given = dict(body.chat_template_kwargs or {})
    taken = [name for name in given if name in _taken_names(model)]
    if taken:
        raise ApiError(
            400,
            f"chat_template_kwargs has {', '.join(map(repr, taken))}, which is no variable of the template; leave it out",
            param=f"chat_template_kwargs.{taken[0]}",
            code="unsupported_parameter",
        )
    effort = getattr(body, "reasoning_effort", None)
    if effort is not None and "reasoning_effort" in str(model.tokenizer.chat_template):
        given["reasoning_effort"] = effort
    elif effort not in (None, "none", "medium"):  # none of it, and what OpenAI takes where nothing is said
        raise ApiError(
            400,
            f"reasoning_effort is {effort!r:.60} and the template of {model.name} does not know it; leave it out",
            param="reasoning_effort",
            code="unsupported_parameter",
        )
    if body.add_generation_prompt is not None:
        given["add_generation_prompt"] = body.add_generation_prompt
    if body.tools and getattr(body, "tool_choice", None) != "none":
        given["tools"] = body.tools
    return given


def _check_shown(model: Model, names: Sequence[str], prompt: Rendered) -> None:
    """Raise where the template leaves out tools that the request offers."""
    lost = [name for name in names if name not in prompt.text]
    if lost:
        raise ApiError(
            400,
            f"the chat template of {model.name} does not show the tool {lost[0]!r:.80}, so the model would not know of it; "
            "leave tools out, or describe them in a message",
            param="tools",
            code="unsupported_parameter",
        )


def _taken_names(model: Model) -> frozenset[str]:
    """Names that mean something to whatever runs a template, and so are no variables of one."""
    return frozenset(inspect.signature(model.tokenizer.apply_chat_template).parameters) | {"messages", "conversations"}


def _guidance(served: Served, body: Sampled, *, is_chat: bool) -> Guidance:
    fields = {name: getattr(body, name) for name in body.model_fields_set}
    try:
        return read_guidance(fields, model=served.model, models=served.models, is_chat=is_chat)
    except UsageError as error:
        raise from_usage(error, "guidance") from error


def _is_one(prompt: str | list) -> bool:
    return isinstance(prompt, str) or isinstance(prompt[0], int)


def _check_size(limits: Limits, body: Sampled, num_prompts: int, guidance: Guidance) -> None:
    total = num_prompts * body.num_drawn
    if total > limits.max_samples:
        param = "best_of" if body.num_drawn > body.num_samples else "n"
        raise ApiError(
            400, f"prompts times {param} is {total}; this server takes {limits.max_samples} a request", param=param
        )
    if body.show_branches and num_prompts > 1:
        raise ApiError(400, f"show_branches is given with {num_prompts} prompts; give one", param="show_branches")
    if len(guidance.branches) > limits.max_branches:
        raise ApiError(
            400,
            f"the request has {len(guidance.branches)} branches; this server takes {limits.max_branches}",
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
        raise _blamed(error, guidance, None) from error
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


def _blamed(error: UsageError, guidance: Guidance, param: str | None) -> ApiError:
    """The mistake with the field of the request that it is about."""
    made = from_usage(error, param)
    if made.param is not None and made.param.startswith("branches["):
        number = int(made.param.removeprefix("branches[").partition("]")[0])
        made.param = guidance.params[number] if number < len(guidance.params) else "guidance"
    return made


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
    return prompt if isinstance(prompt, str) else model.decode(prompt)


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
    )
