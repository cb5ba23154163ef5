"""What is decided about a request when it arrives: the token ids of its branches, or why it can't be guided.

vLLM's check of parameters asks first, so that a refusal is HTTP 400; the scheduler asks again, so that none is missed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from counterpoint.errors import PromptError, UnsupportedError
from counterpoint.vllm.params import Plan

# vLLM's own ids of conversations; the children of n > 1 have a number before it.
CHAT_ID = re.compile(r"(\d+_)?(chatcmpl-|resp_)")
BEAM_ID = re.compile(r"-beam-\d+(-[0-9a-f]{8})?$")
UNGUIDED = "unguided-"  # begins the id that the middleware gives to a beam search which asks for no guidance
KNOWN_ID = re.compile(rf"(chat)?cmpl-{UNGUIDED}")
ONLY_TOKENS = "guidance works on prompts of tokens; not on images, audio, embeddings or sessions"


def refuse_beam(request_id: str, params: Any) -> None:
    """Raise for a step of a beam search over HTTP, unless the middleware has seen that it asks for no guidance.

    vLLM makes such a step's parameters anew, without what the request says about guidance.
    """
    a_beam = params.max_tokens == 1 and not params.detokenize and BEAM_ID.search(request_id)
    if a_beam and not KNOWN_ID.match(request_id):
        raise UnsupportedError(
            "vLLM does not say whether a beam search is guided; leave use_beam_search out, or for an unguided one start "
            "the server with --middleware counterpoint.vllm.middleware.GuidanceMiddleware"
        )


def branch_ids(
    plan: Plan, prompt_ids: Sequence[int], request_id: str, *, vocab: int, encode: Callable[[str], list[int]] | None
) -> list[list[int]]:
    """Each further branch's token ids.

    Args:
        plan: what the request asks for.
        prompt_ids: of the request itself, not empty.
        request_id: vLLM's, which tells a conversation.
        vocab: token ids of the model, from 0.
        encode: the model's tokenizer; None without one.

    Raises:
        UnsupportedError, PromptError: a context is a text where a template is needed, has no tokens, or unknown ones.
    """
    return [_ids(context, prompt_ids, request_id, vocab, encode) for context in plan.contexts]


def _ids(
    context: str | tuple[int, ...] | None,
    prompt_ids: Sequence[int],
    request_id: str,
    vocab: int,
    encode: Callable[[str], list[int]] | None,
) -> list[int]:
    if context is None:
        return [prompt_ids[-1]]
    if isinstance(context, str):
        if CHAT_ID.match(request_id):
            raise UnsupportedError(
                "a chat's negative needs the chat template; start the server with the middleware "
                "counterpoint.vllm.middleware.GuidanceMiddleware or send negative_prompt_ids"
            )
        if encode is None:
            raise PromptError("the server has no tokenizer; send negative_prompt_ids instead of a text")
        context = tuple(encode(context))
        if not context:
            raise PromptError("a branch's text has no tokens; use a longer one")
    if max(context) >= vocab:
        raise PromptError(f"a branch has the token id {max(context)}; this model's ids end at {vocab - 1}")
    return list(context)
