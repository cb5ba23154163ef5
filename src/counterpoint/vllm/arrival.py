"""What is decided about a request when it arrives: the token ids of its branches, or why it can't be guided.

vLLM's check of parameters asks first, so that a refusal is HTTP 400; the scheduler asks again, so that none is missed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.contexts.kinds import LastTokens
from counterpoint.errors import PromptError, TooLongError, UnsupportedError
from counterpoint.guide import no_effect
from counterpoint.vllm.params import Context, Plan, refused_as_idle

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import ModelConfig

# vLLM's own ids of conversations; the children of n > 1 have a number before it.
CHAT_ID = re.compile(r"(\d+_)?(chatcmpl-|resp_)")
BEAM_ID = re.compile(r"-beam-\d+(-[0-9a-f]{8})?$")
UNGUIDED = "unguided-"  # begins the id that the middleware gives to a beam search which asks for no guidance
KNOWN_ID = re.compile(rf"(chat)?cmpl-{UNGUIDED}")
ONLY_TOKENS = "guidance works on prompts of tokens; not on images, audio, embeddings or sessions"
#: the parameters of a request that looks at nothing but the most probable token; None also stands for 0 and for empty
TAKES_BEST: dict[str, Any] = {
    "temperature": None, "repetition_penalty": 1.0, "presence_penalty": None, "frequency_penalty": None, "min_tokens": None,
    "logit_bias": None, "allowed_token_ids": None, "bad_words": None, "structured_outputs": None, "logprobs": None,
    "logprob_token_ids": None, "thinking_token_budget": None,
}  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a model's token ids are.

    Args:
        size: ids from 0.
        encode: the tokenizer's; None without one.
        most_chars: a text with more characters is too long for the model's context, whatever it says; None if not known.
    """

    size: int
    encode: Callable[[str], list[int]] | None
    most_chars: int | None = None

    @classmethod
    def of(cls, model_config: ModelConfig, tokenizer: Any) -> Vocabulary:
        """Of a served model."""
        size = model_config.get_vocab_size()
        if tokenizer is None:
            return cls(size, None)
        return cls(size, tokenizer.encode, tokenizer.max_chars_per_token * model_config.max_model_len)


def branch_ids(plan: Plan, prompt_ids: Sequence[int], request_id: str, vocabulary: Vocabulary) -> list[list[int]]:
    """Each further branch's token ids.

    Args:
        plan: what the request asks for.
        prompt_ids: of the request itself, not empty.
        request_id: vLLM's, which tells a conversation.
        vocabulary: of the model.

    Raises:
        UnsupportedError, PromptError: a context is a text where a template is needed, has no tokens, unknown ones, or more
            than the model's context.
    """
    return [_ids(context, prompt_ids, request_id, vocabulary) for context in plan.contexts]


def _ids(context: Context, prompt_ids: Sequence[int], request_id: str, vocabulary: Vocabulary) -> list[int]:
    if isinstance(context, LastTokens):
        return list(prompt_ids[-context.count :])
    if isinstance(context, str):
        if CHAT_ID.match(request_id):
            raise UnsupportedError(
                "a chat's negative needs the chat template; start the server with the middleware "
                "counterpoint.vllm.middleware.GuidanceMiddleware or send negative_prompt_ids"
            )
        if vocabulary.encode is None:
            raise PromptError("the server has no tokenizer; send negative_prompt_ids instead of a text")
        if vocabulary.most_chars is not None and len(context) > vocabulary.most_chars:
            raise TooLongError(
                f"a branch has {len(context)} characters; the model's context holds {vocabulary.most_chars} at most; "
                "shorten it"
            )
        context = tuple(vocabulary.encode(context))
        if not context:
            raise PromptError("a branch's text has no tokens; use a longer one")
    if max(context) >= vocabulary.size:
        raise PromptError(f"a branch has the token id {max(context)}; this model's ids end at {vocabulary.size - 1}")
    return list(context)


def refuse_idle(plan: Plan, params: SamplingParams, *, num_tokens: int, vocab_size: int, alone: bool) -> None:
    """Raise where the guidance could change no token of this request.

    Args:
        plan: what the request asks for.
        params: its other parameters.
        num_tokens: most tokens that it can generate.
        vocab_size: token ids of the model.
        alone: no processors of others look at the logits.

    Raises:
        GuideError: with the reason.
    """
    verdict = no_effect(
        plan.guide,
        plan.weights,
        plan.contexts,
        num_tokens=num_tokens,
        vocab_size=vocab_size,
        takes_best=alone and all((getattr(params, name) or None) == value for name, value in TAKES_BEST.items()),
    )
    if verdict is not None:
        raise refused_as_idle(verdict)
