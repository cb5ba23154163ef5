"""A conversation with a model: one engine for all answers, so that what was said is not read again."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.contexts import Conversation, read_request
from counterpoint.errors import TooLongError
from counterpoint.guide import Guide

if TYPE_CHECKING:
    from counterpoint.models.model import Model
    from counterpoint.trace import Trace

KEPT_TOKENS = 16384  # of ended answers, so that the next one begins at once
ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class Controls:
    """What can be turned while the conversation goes on.

    Args:
        guide: how the two branches are combined.
        sampling: options of generation; its seed, where there is one, makes every answer repeatable.
    """

    guide: Guide
    sampling: dict[str, Any]

    def turned(self, **fields: Any) -> Controls:
        """With other fields of the guide or of the sampling. Raises `UsageError` where one is out of its range."""
        guide = {name: value for name, value in fields.items() if name in Guide.__dataclass_fields__}
        others = {name: value for name, value in fields.items() if name not in guide}
        turned = Controls(dataclasses.replace(self.guide, **guide), {**self.sampling, **others})
        turned.check()
        return turned

    def check(self) -> None:
        from counterpoint.engine.options import read_options
        from counterpoint.engine.request import Request

        options = {name: value for name, value in self.sampling.items() if name != "seed"}
        Request(prompt_ids=(0,), seed=self.sampling.get("seed"), **read_options(options))


class Session:
    """Answers to a conversation.

    Args:
        model: who answers.
        conversation: how it begins.
        controls: what can be turned.
        drafting: the engine's arguments for guessing ahead.
    """

    def __init__(
        self, model: Model, conversation: Conversation, controls: Controls, *, drafting: dict[str, Any] | None = None
    ) -> None:
        from counterpoint.engine import Engine

        self.model, self.conversation, self.controls = model, conversation, controls
        self.engine = Engine(model, prefix_tokens=KEPT_TOKENS, pauses=False, **(drafting or {}))
        self.last_trace: Trace | None = None
        self.last_seed: int | None = None
        self.aside: str | None = None  # an answer that is shown and not in the conversation
        self.num_forgotten = 0

    def say(self, text: str) -> Iterator[str]:
        """Say something, and yield the answer as it is written. What is cut off stays as far as it came."""
        asked, forgotten = self._fitting(self.conversation.asked(text))
        seed = self._seed(len(asked.exchanges) + forgotten)
        return self._answer(asked, forgotten, self.controls.guide, seed)

    def again(self) -> Iterator[str]:
        """Write another answer to what was said last."""
        asked, forgotten = self._fitting(self.conversation.reopened())
        return self._answer(asked, forgotten, self.controls.guide, random.SystemRandom().randrange(2**31))

    def unguided(self) -> Iterator[str]:
        """Write the last answer without guidance, from the same random numbers; the conversation keeps its own."""
        asked, _ = self._fitting(self.conversation.reopened())
        return self._aside(asked)

    def keep(self) -> bool:
        """Take what `unguided` wrote into the conversation; False where there is nothing to take."""
        if self.aside is None:
            return False
        self.conversation, self.aside = self.conversation.answered(self.aside), None
        return True

    def _seed(self, number: int) -> int:
        seed = self.controls.sampling.get("seed")
        return random.SystemRandom().randrange(2**31) if seed is None else seed + number

    def _fitting(self, asked: Conversation) -> tuple[Conversation, int]:
        """The conversation as far as the model holds it, with room for an answer, and how many exchanges were left
        out. Raises `TooLongError` where the last message alone is too long."""
        length = self.model.context_len
        if length is None:
            return asked, 0
        reserve = min(self.controls.sampling["max_tokens"], length // 4)

        def fits(conversation: Conversation) -> bool:
            try:
                ids, branches, _ = read_request(self.model, conversation.prompt(self.model))
            except TooLongError:
                return False
            return max(len(ids), *(len(branch.ids) for branch in branches), 0) + reserve <= length

        made = asked.shortened(fits)
        return made, len(asked.exchanges) - len(made.exchanges)

    def _answer(self, asked: Conversation, forgotten: int, guide: Guide, seed: int) -> Iterator[str]:
        pieces = self._pieces(asked, guide, seed)  # what is wrong is raised before anything is changed
        self.num_forgotten, self.aside = forgotten, None
        return self._kept(asked, pieces, seed)

    def _kept(self, asked: Conversation, pieces: Iterator[str], seed: int) -> Iterator[str]:
        text = ""
        try:
            for piece in pieces:
                text += piece
                yield piece
        finally:
            if text.strip():
                self.conversation, self.last_seed = asked.answered(text.strip()), seed

    def _aside(self, asked: Conversation) -> Iterator[str]:
        guided = self.last_trace
        text = ""
        for piece in self._pieces(dataclasses.replace(asked, negative=None), Guide(scale=1.0), self.last_seed or 0):
            text += piece
            yield piece
        self.aside, self.last_trace = text.strip(), guided

    def _pieces(self, asked: Conversation, guide: Guide, seed: int) -> Iterator[str]:
        from counterpoint.engine import prepare
        from counterpoint.trace import watched

        options = {**self.controls.sampling, "seed": seed}
        is_guided = asked.negative is not None and guide.scale != 1
        request = prepare(self.model, asked.prompt(self.model), guide=guide if is_guided else None, **options)
        request, finish = watched(self.model, request, num_alternatives=ALTERNATIVES)
        return self._run(request, finish)

    def _run(self, request: Any, finish: Any) -> Iterator[str]:
        request_id = self.engine.add(request)
        completion = None
        try:
            while completion is None:
                for progress in self.engine.step() or [None]:
                    if progress is None:
                        yield ""
                        continue
                    if progress.error is not None:
                        raise progress.error
                    completion = progress.completion or completion
                    yield progress.text  # also where it is empty, so that whoever listens can stop it
        finally:
            for progress in self.engine.cancel(request_id):
                completion = progress.completion or completion
            if completion is not None and completion.token_ids:
                self.last_trace = finish(completion)
