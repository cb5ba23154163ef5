"""The numbers of texts that are written already: each step as it would be if the model wrote it now."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from counterpoint.engine import Completion, Engine, prepare
from counterpoint.engine.watching import Numbers
from counterpoint.errors import PromptError, UsageError
from counterpoint.models.model import Model
from counterpoint.watch.distance import Array, check_lengths, row_of

OPTIONS = ("negative", "branches", "guide")


class Listener:
    """A watch that only listens: keeps the numbers of every text, and never raises an alarm."""

    window = 1

    def __init__(self, *, hears_states: bool = False) -> None:
        self.hears_states = hears_states
        self.texts: list[list[tuple[float, ...]]] = []

    def check(self, model: Model) -> None:
        """Any model will do."""

    def start(self) -> _Listening:
        """A new text begins."""
        self.texts.append([])
        return _Listening(self.texts[-1])


class _Listening:
    begin = 0

    def __init__(self, steps: list[tuple[float, ...]]) -> None:
        self._steps = steps

    def hear(self, step: int, numbers: Numbers) -> float | None:
        self._steps.append(row_of(numbers))
        return None

    def cut(self, length: int) -> None:
        del self._steps[length:]


def numbers_of(
    model: Model, texts: Sequence[Any], *, features: str = "numbers", window: int | None = None, **options: Any
) -> list[Array]:
    """The numbers of the steps of some texts, (T, 4) each; of features "hidden" their states, (T, H).

    Args:
        texts: (prompt, completion) each, as of `Watch.fit`.
        window: of the watch that they are for, which refuses some before any is read.
        options: `negative`, `branches` and `guide` of all.

    Raises:
        UsageError: a text is empty or of another kind, or an option is; they are too few or too short for the window.
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise UsageError(
            f"a watch is fitted with no option {unknown[0]!r}; known are {', '.join(OPTIONS)}", param=unknown[0]
        )
    listener, requests = Listener(hears_states=features == "hidden"), []
    for number, pair in enumerate(texts):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UsageError(f"good text {number} is {pair!r:.60}; give (prompt, completion)", param="good")
        prompt, text = pair
        ids = _ids(model, text, number)
        request = prepare(model, prompt, max_tokens=len(ids), temperature=0, ignore_eos=True, **options)
        if request.room(model) < len(ids):
            raise PromptError(
                f"good text {number} is too long for {model.name} with its prompt; shorten it", param="good"
            )
        requests.append(dataclasses.replace(request, given_ids=ids, watch=listener))
    if window is not None:
        check_lengths([len(request.given_ids) for request in requests], window)
    Engine(model).complete(requests)
    return [np.array(steps, dtype=np.float64).reshape(len(steps), -1) for steps in listener.texts]


def _ids(model: Model, text: Any, number: int) -> tuple[int, ...]:
    if isinstance(text, Completion):
        ids = text.token_ids
    elif isinstance(text, str):
        ids = tuple(model.encode(text, special_tokens=False)) if text else ()
    else:
        try:
            ids = tuple(int(token_id) for token_id in text)
        except (TypeError, ValueError):
            raise UsageError(f"good text {number} is {text!r:.60}; give a text or token ids", param="good") from None
    if not ids:
        raise UsageError(f"good text {number} is empty; leave it out", param="good")
    bad = [token_id for token_id in ids if not 0 <= token_id < model.vocab_size]
    if bad:
        raise UsageError(f"good text {number} has the token id {bad[0]}, which {model.name} has not", param="good")
    return ids
