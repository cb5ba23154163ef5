"""A guided request as vLLM gets it: what the wire's fields say, with every context as token ids, in its `vllm_xargs`."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.contexts.kinds import LastTokens
from counterpoint.guide import no_effect
from counterpoint.vllm.params import GUIDANCE, branches_of, branches_on_the_wire, refused_as_idle
from counterpoint.vllm.usage import BranchUsage
from counterpoint.wire import Guidance

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ARGUMENTS = "vllm_xargs"


@dataclass(frozen=True, slots=True)
class Translated:
    """A request's body, and how to count what its branches take."""

    body: bytes
    usage: BranchUsage | None


async def translated(rendering: Any, request: Mapping[str, Any], asked: Guidance, *, is_chat: bool) -> Translated:
    """The request that asks vLLM for the same.

    Args:
        rendering: a `counterpoint.vllm.rendering.Rendering` of the request.
        request: its fields without those of guidance.
        asked: what those say; it has a guide.
        is_chat: whether it is a conversation.

    Raises:
        UsageError: a context can't be read, or the guidance could do nothing.
        counterpoint.vllm.rendering.Refused: vLLM refuses a context, as it would as a request.
    """
    contexts = [branch.context for branch in asked.branches]
    if is_chat:
        messages, prompt_ids, made = await rendering.conversations(request.get("messages"), contexts)
        request, prompts = {**request, "messages": messages}, [tuple(prompt_ids)]
    else:
        prompts = _prompts(request.get("prompt"))
        made = [await rendering.text(context) if isinstance(context, str) else None for context in contexts]
    written = [context if ids is None else tuple(ids) for context, ids in zip(contexts, made, strict=True)]
    branches = branches_of(asked, written)
    # Whether a completion's prompt is a negative's text, no ids are needed to tell.
    shown = written if is_chat else contexts
    _refuse_idle(asked, branches_of(asked, shown), prompts)
    fields = asked.guide.to_dict()
    if asked.branches:
        fields["branches"] = branches_on_the_wire(branches)
    args = {**(request.get(ARGUMENTS) or {}), GUIDANCE: json.dumps(fields)}
    lens = [
        branch.context.count if isinstance(branch.context, LastTokens) else len(branch.context) for branch in branches
    ]
    usage = BranchUsage(len(prompts) * sum(lens), len(lens)) if any(asked.guide.weights(branches)) else None
    return Translated(json.dumps({**request, ARGUMENTS: args}).encode(), usage)


def num_prompts(request: Mapping[str, Any]) -> int:
    """How many prompts a completion has; 1 where vLLM will refuse them."""
    return len(_prompts(request.get("prompt")))


def _prompts(given: Any) -> list[Hashable]:
    """A completion's prompts, each a text or ids."""
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return [tuple(one) if isinstance(one, list) else one for one in given]
    return [tuple(given) if isinstance(given, list) else given]


def _refuse_idle(asked: Guidance, branches: tuple, prompts: list[Hashable]) -> None:
    """Raise where none of the prompts could be changed."""
    contexts = [branch.context for branch in branches]
    verdicts = [no_effect(asked.guide, asked.guide.weights(branches), contexts, prompt) for prompt in prompts]
    if all(verdicts):
        raise refused_as_idle(verdicts[0])
