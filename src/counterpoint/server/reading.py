"""From the wire's fields to the engine's requests. Every mistake that can be found before the first token is found here."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint import contexts
from counterpoint.engine import Request, prepare
from counterpoint.errors import GuideError, NoEffectWarning, PromptError, UsageError
from counterpoint.guide import Branch, Guide
from counterpoint.models.model import Model
from counterpoint.server.errors import ApiError, from_usage
from counterpoint.server.limits import Limits
from counterpoint.server.schema import Asked, BranchFields, ChatBody, CompletionBody, Message
from counterpoint.trace.recorder import Recorder
from counterpoint.wire import branch_from_wire

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class Work:
    """One HTTP request as the engine takes it.

    Args:
        requests: one for each prompt; all have `num_samples` samples.
        echoes: for each prompt, what is shown before the output.
        recorders: for each prompt, what watches its steps, where a trace is asked for.
        shown: for each prompt, what its branches read, where that is asked for.
    """

    requests: tuple[Request, ...]
    num_samples: int
    echoes: tuple[str, ...]
    recorders: tuple[Recorder | None, ...]
    shown: tuple[dict[str, Any] | None, ...]

    @property
    def total(self) -> int:
        """Samples altogether."""
        return len(self.requests) * self.num_samples


def read_completion(model: Model, body: CompletionBody, limits: Limits, models: Mapping[str, Model]) -> Work:
    """Raises ApiError: a field can't be, on this model or within these limits."""
    prompts = [body.prompt] if _is_one(body.prompt) else list(body.prompt)
    _check_size(body, len(prompts), limits)
    branches = _contexts(model, body, models)
    options = _options(body, body.max_tokens or DEFAULT_COMPLETION_TOKENS, body.logprobs, limits)
    requests = [_request(model, prompt, branches, body, options, limits) for prompt in prompts]
    echoes = [_text(model, prompt) if body.echo else "" for prompt in prompts]
    return _work(model, requests, echoes, body)


def read_chat(model: Model, body: ChatBody, limits: Limits, models: Mapping[str, Model]) -> Work:
    """Raises ApiError: a field can't be, on this model or within these limits."""
    _check_size(body, 1, limits)
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise ApiError(
            400,
            f"the model {model.name} has no chat template, so it can't be chatted with; use /v1/completions",
            param="messages",
            code="no_chat_template",
        )
    branches = _contexts(model, body, models)
    try:
        # A builder makes pairs; a chat without another branch takes the prompt of one.
        built = contexts.chat(
            model,
            _plain(body.messages),
            branches=branches or None,
            continue_final=bool(body.continue_final_message),
            template=body.chat_template_kwargs,
        )
    except UsageError as error:
        raise from_usage(error, "messages") from error
    most = body.max_completion_tokens or body.max_tokens or limits.max_tokens or model.context_len or 2**31
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    options = _options(body, most, logprobs, limits)
    read = list(built.branches) if branches else []
    request = _request(model, built.prompt, read, body, options, limits)
    return _work(model, [request], [""], body)


def _is_one(prompt: str | list) -> bool:
    return isinstance(prompt, str) or isinstance(prompt[0], int)


def _check_size(body: Asked, num_prompts: int, limits: Limits) -> None:
    total = num_prompts * (body.n or 1)
    if total > limits.max_samples:
        raise ApiError(400, f"prompts times n is {total}; this server takes {limits.max_samples} a request", param="n")
    if body.show_branches and num_prompts > 1:
        raise ApiError(400, f"show_branches is given with {num_prompts} prompts; give one", param="show_branches")
    negatives = [body.negative_prompt, body.negative_prompt_ids, getattr(body, "negative_messages", None)]
    num_negatives = sum(value is not None for value in negatives)
    if num_negatives > 1:
        raise ApiError(400, "several negatives are given; keep one, or use guidance.branches", param="negative_prompt")
    total = num_negatives + len(_branches(body))
    if total > limits.max_branches:
        raise ApiError(
            400, f"the request has {total} branches; this server takes {limits.max_branches}", param="guidance.branches"
        )


def _branches(body: Asked) -> Sequence[BranchFields]:
    return (body.guidance.branches if body.guidance else None) or ()


def _contexts(model: Model, body: Asked, models: Mapping[str, Model]) -> list[Branch]:
    """The further branches as the request writes them: the negative first."""
    is_chat = isinstance(body, ChatBody)
    negatives = [body.negative_prompt, body.negative_prompt_ids]
    if is_chat and body.negative_messages is not None:
        negatives.append(_plain(body.negative_messages))
    branches = [Branch(negative) for negative in negatives if negative is not None]
    for fields in _branches(body):
        written = fields.written
        if fields.messages is not None:
            written["messages"] = _plain(fields.messages)
        elif is_chat and fields.prompt is not None:
            written["system"] = written.pop("prompt")
        try:
            branches.append(branch_from_wire(written, model=model, models=models, is_chat=is_chat))
        except UsageError as error:
            raise from_usage(error, "guidance.branches") from error
    return branches


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as templates take them: the parts of a content joined to one text."""
    plain = []
    for message in messages:
        content = message.content
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        plain.append({"role": message.role, "content": text} | ({"name": message.name} if message.name else {}))
    return plain


def _options(body: Asked, max_tokens: int, logprobs: int | None, limits: Limits) -> dict[str, Any]:
    """The arguments of `prepare` beside the contexts."""
    if limits.max_tokens is not None and max_tokens > limits.max_tokens:
        raise ApiError(
            400, f"max_tokens is {max_tokens}; this server writes up to {limits.max_tokens}", param="max_tokens"
        )
    named = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop")
    options = {name: getattr(body, name) for name in named if getattr(body, name) is not None}
    return options | {
        "top_k": max(body.top_k or 0, 0),
        "logit_bias": {int(token_id): bias for token_id, bias in (body.logit_bias or {}).items()},
        "stop_ids": body.stop_token_ids or (),
        "ignore_eos": bool(body.ignore_eos),
        "n": body.n or 1,
        "max_tokens": max_tokens,
        "logprobs": logprobs,
    }


def _request(
    model: Model,
    prompt: Any,
    branches: list[Branch],
    body: Asked,
    options: dict[str, Any],
    limits: Limits,
) -> Request:
    guide = _guide(body, bool(branches))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NoEffectWarning)
            request = prepare(model, prompt, branches=branches or None, guide=guide, seed=body.seed, **options)
            _check_lens(request, limits)
            request.check(model)
    except NoEffectWarning as warning:
        param = "negative_prompt" if warning.field in ("scale", "weight", "negative") else f"guidance.{warning.field}"
        raise ApiError(400, f"{warning}; change that or leave guidance out", param=param, code="no_effect") from None
    except UsageError as error:
        raise from_usage(error, _blamed(error)) from error
    return request


def _guide(body: Asked, has_branches: bool) -> Guide | None:
    fields = {} if body.guidance is None else body.guidance.model_dump(exclude={"scale", "branches"}, exclude_none=True)
    if body.scale is None and body.guidance is None and not has_branches:
        return None
    if body.scale == 1 and not has_branches and not fields:
        return None
    return _made(Guide, scale=body.scale, **fields)


def _made(make: Any, **fields: Any) -> Any:
    try:
        return make(**fields)
    except UsageError as error:
        raise from_usage(error, "guidance") from error


def _blamed(error: UsageError) -> str | None:
    for kind, param in ((GuideError, "guidance"), (PromptError, "prompt")):
        if isinstance(error, kind):
            return param
    return None


def _check_lens(request: Request, limits: Limits) -> None:
    longest = max(len(request.prompt_ids), *(len(branch.ids) for branch in request.branches), 0)
    if limits.max_prompt_tokens is not None and longest > limits.max_prompt_tokens:
        raise PromptError(
            f"a context has {longest} tokens and this server reads up to {limits.max_prompt_tokens}; shorten it"
        )


def _text(model: Model, prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else model.decode(prompt)


def _work(model: Model, requests: list[Request], echoes: list[str], body: Asked) -> Work:
    shown: list[dict[str, Any] | None] = [None] * len(requests)
    if body.show_branches:
        shown = [contexts.show_read(model, request.prompt_ids, request.branches).to_dict() for request in requests]
    recorders: list[Recorder | None] = [None] * len(requests)
    if body.trace is not None:
        recorders = [Recorder(request, num_alternatives=body.trace) for request in requests]
        requests = [dataclasses.replace(request, observe=watch) for request, watch in zip(requests, recorders)]
    return Work(tuple(requests), requests[0].num_samples, tuple(echoes), tuple(recorders), tuple(shown))
