"""Branches' texts and conversations made into token ids by vLLM itself: each is the whole request with another prompt.

So whatever a request or a flag of the server's says about how a prompt is written and cut holds for every branch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.contexts.chat import settled
from counterpoint.contexts.messages import Message
from counterpoint.errors import PromptError, UnsupportedError
from counterpoint.vllm.arrival import ONLY_TOKENS

#: what a prompt is, and how many tokens follow it
PROMPTS = ("messages", "prompt", "prompt_embeds")
LENGTHS = ("max_tokens", "max_completion_tokens", "min_tokens")


class Refused(Exception):
    """vLLM's own refusal, to be passed on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Rendering:
    """One request's prompts, written by the server whose application is `app`."""

    def __init__(self, app: Any, request: Mapping[str, Any]) -> None:
        self._state = app.state
        # The tokens that follow matter only to how a prompt is cut; a branch that leaves fewer has its own limit.
        left_out = PROMPTS if request.get("truncate_prompt_tokens") is not None else (*PROMPTS, *LENGTHS)
        self._request = {name: value for name, value in request.items() if name not in left_out}

    async def conversations(
        self, messages: Any, contexts: Sequence[Any]
    ) -> tuple[list[Message], list[int], list[list[int] | None]]:
        """The request's messages in their normal form with their ids, and those of each context that is a conversation
        or another system message; None for the others.

        Raises:
            PromptError: the template refuses one, or leaves a message out.
            Refused: vLLM refuses one for another reason, as it would as a request.
        """
        loop, written = asyncio.get_running_loop(), {}

        def render(given: Sequence[Message]) -> str:
            key = json.dumps(given, default=str)
            if key not in written:
                written[key] = asyncio.run_coroutine_threadsafe(self._text(given), loop).result()
            return written[key]

        prompt, made = await asyncio.to_thread(settled, render, messages, contexts)
        ids = [
            await self._chat_ids(one) if one is not given or isinstance(one, list) else None
            for given, one in zip(contexts, made, strict=True)
        ]
        return prompt, await self._chat_ids(prompt), ids

    async def text(self, text: str) -> list[int]:
        """The ids of a text as a completion's prompt.

        Raises:
            Refused: vLLM refuses it, as it would as a request.
        """
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        (given,) = await self._rendered(
            self._state.openai_serving_completion, "render_completion_request", CompletionRequest, {"prompt": text}
        )
        return _ids(given)

    async def _text(self, messages: Sequence[Message]) -> str:
        """What the template writes, uncut."""
        try:
            given = await self._chat(messages, truncate_prompt_tokens=None)
        except Refused as refusal:
            if refusal.status != 400:
                raise  # no fault of the conversation's
            raise PromptError(f"the conversation is refused: {refusal.message}", param="messages") from None
        text = given.get("prompt")
        tokenizer = self._state.openai_serving_chat.renderer.get_tokenizer()
        return text if isinstance(text, str) else tokenizer.decode(_ids(given), skip_special_tokens=False)

    async def _chat_ids(self, messages: Sequence[Message]) -> list[int]:
        return _ids(await self._chat(messages))

    async def _chat(self, messages: Sequence[Message], **changes: Any) -> Any:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        fields = {"messages": list(messages), **changes}
        answer = await self._rendered(
            self._state.openai_serving_chat, "render_chat_request", ChatCompletionRequest, fields
        )
        (given,) = answer[1]
        return given

    async def _rendered(self, serving: Any, name: str, kind: Any, changes: dict[str, Any]) -> Any:
        """What one of vLLM's own methods makes of the request with these changes."""
        try:
            answer = await getattr(serving, name)(kind.model_validate({**self._request, **changes}))
        except Exception as error:  # noqa: BLE001, whatever a template or a check raises, vLLM has an answer to it
            answer = serving.create_error_response(error)
        if hasattr(answer, "error"):
            raise Refused(answer.error.code, answer.error.message)
        return answer


def _ids(given: Any) -> list[int]:
    if given["type"] != "token":
        raise UnsupportedError(ONLY_TOKENS)
    if not given["prompt_token_ids"]:
        raise PromptError("a branch has no tokens; use a longer one")
    return list(given["prompt_token_ids"])
