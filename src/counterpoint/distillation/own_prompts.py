"""Prompts that the model writes itself: of a chat model what it expects a user to say, else how it begins a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from counterpoint.contexts import Rendered, read_prompt
from counterpoint.contexts.chat import renderer
from counterpoint.contexts.messages import MARK
from counterpoint.contexts.reading import read_empty
from counterpoint.distillation.answers import CHUNK, Writer
from counterpoint.engine import Request
from counterpoint.engine.options import read_options
from counterpoint.errors import PromptError
from counterpoint.models.model import Model

MOST_TRIES = 12  # requests for each prompt that is wanted
FEWEST_WORDS, MOST_WORDS, MOST_TOKENS = 3, 40, 64
TEMPERATURE, TOP_P = 1.0, 0.95


def write_prompts(
    model: Model, writer: Writer, count: int, *, is_chat: bool, seed: int, say: Callable[[str], None]
) -> list[str]:
    """So many different prompts of 3 to 40 words, drawn with the seed.

    In a chat the model continues what its template writes before a user's text, and what ends there is a user's turn.

    Raises:
        PromptError: the model writes too few that are usable.

    Source: Xu et al. 2024, arXiv 2406.08464 (Magpie), for chat models.
    """
    context, ends = _before_user(model) if is_chat else (read_empty(model), ())
    sampling: dict[str, Any] = {"max_tokens": MOST_TOKENS, "temperature": TEMPERATURE, "top_p": TOP_P}
    sampling |= {"stop": ["\n"], "stop_ids": ends}
    options = read_options(sampling)
    found: dict[str, str] = {}
    for tried in range(0, MOST_TRIES * count, CHUNK):
        requests = [
            Request(prompt_ids=context, seed=seed + tried + number, logprobs=0, **options) for number in range(CHUNK)
        ]
        for (made,) in writer.write(requests, "prompts of the model's own"):
            text = made.text.strip()
            if made.is_ended and FEWEST_WORDS <= len(text.split()) <= MOST_WORDS:
                found.setdefault(text.casefold(), text)
        if len(found) >= count:
            return list(found.values())[:count]
    raise PromptError(
        f"the model wrote {len(found)} usable prompts of {count} that were wanted; want fewer, or give prompts",
        param="written",
    )


def _before_user(model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the template writes before a user's text, and the first token of what it writes after it."""
    text = renderer(model)([{"role": "user", "content": MARK}])
    before, found, after = text.partition(MARK)
    if not found:
        raise PromptError("the chat template does not show what a user says; give prompts", param="written")
    if not before:
        return read_empty(model), tuple(model.encode(after, special_tokens=False)[:1])
    return read_prompt(model, Rendered(before)), tuple(model.encode(after, special_tokens=False)[:1])
