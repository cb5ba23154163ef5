"""Many prompts answered under many guides in one engine; every answer is kept, so that a killed run goes on."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.engine import Engine, Observation, prepare
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.sampling import SEED_VERSION
from counterpoint.store import Store, key_of
from counterpoint.trace.record import LIMITS

UNGUIDED = Guide(scale=1.0)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt to answer under one guide.

    Args:
        context: token ids of the conditional branch.
        negative: token ids of the further branch; None for none.
        guide: with a scale of its own; at 1 the negative is not read.
        arguments: the sampling arguments of `counterpoint.generate`, JSON values all of them.
    """

    context: tuple[int, ...]
    negative: tuple[int, ...] | None = None
    guide: Guide = UNGUIDED
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, whether the model ended it, its number of tokens, and how many of them are artefacts by
    `counterpoint.trace`'s limits."""

    text: str
    is_ended: bool
    num_tokens: int
    num_artefacts: int


def answer_all(
    model: Model,
    tasks: Sequence[Task],
    *,
    store: Store,
    weights: str,
    seconds: float | None = None,
    together: int = 96,
    max_rows: int = 64,
    say: Callable[[str], None] = lambda line: None,
) -> list[Answer | None]:
    """Answer every task, in the order given. An answer that the store has is taken from there.

    Args:
        weights: a fingerprint of the model.
        seconds: begin nothing new after this time; what is left is None. None is no limit.
        together: tasks that are answered and kept together.
        max_rows: of the engine.
    """
    keys = [_key(weights, task) for task in tasks]
    found = store.get(keys)
    todo = list({key: task for key, task in zip(keys, tasks) if key not in found}.items())
    engine, end = Engine(model, max_rows=max_rows), None if seconds is None else time.monotonic() + seconds
    for at in range(0, len(todo), together):
        if end is not None and time.monotonic() > end:
            break
        batch = todo[at : at + together]
        counts = [[0] for _ in batch]
        done = engine.complete([_request(model, task, counts[i]) for i, (_, task) in enumerate(batch)])
        answers = {
            key: [one.text or "", one.finish_reason == "stop", len(one.token_ids), counts[i][0]]
            for i, ((key, _), (one,)) in enumerate(zip(batch, done))
        }
        store.put(answers)
        found.update(answers)
        say(f"{at + len(batch)} of {len(todo)} answers")
    return [Answer(*found[key]) if key in found else None for key in keys]


def _key(weights: str, task: Task) -> str:
    negative = None if task.guide.scale == 1 else task.negative
    return key_of("answer", SEED_VERSION, weights, task.context, negative, task.guide.to_dict(), task.arguments)


def _request(model: Model, task: Task, count: list[int]):
    return prepare(
        model,
        task.context,
        negative=None if task.guide.scale == 1 else task.negative,
        guide=task.guide,
        observe=functools.partial(_watch, count),
        **task.arguments,
    )


def _watch(count: list[int], index: int, seen: Observation) -> None:
    """Count the token if it is an artefact."""
    logprob = seen.cond[seen.token_id]
    if float(logprob.exp()) < LIMITS.prob and int((seen.cond > logprob).sum()) >= LIMITS.rank:
        count[0] += 1
