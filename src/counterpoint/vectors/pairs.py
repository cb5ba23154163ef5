"""Pairs of texts for a vector, from lines of JSON or from questions under two system messages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from counterpoint.contexts.chat import DEFAULT_SYSTEM, NO_SYSTEM, System, chat
from counterpoint.errors import PromptError, UsageError
from counterpoint.models.model import Model

SIDES = ("positive", "negative")


def chat_pairs(
    model: Model, questions: Iterable[str], *, system: str | System, negative: str | System
) -> list[tuple[Any, Any]]:
    """Each question as a user's turn under two system messages, up to where the answer begins.

    Args:
        system: the message that the vector is to lead to: a text, `contexts.NO_SYSTEM` or `contexts.DEFAULT_SYSTEM`.
        negative: the one that it leads away from.

    Raises:
        PromptError: the model has no chat template, or it refuses the conversation.
    """
    pairs = []
    for question in questions:
        turns: list[dict[str, Any]] = [{"role": "user", "content": question}]
        if isinstance(system, str):
            built = chat(model, [{"role": "system", "content": system}, *turns], negative=negative)
            pairs.append((built.prompt, built.branches[0].context))
        else:  # a conversation has a system message as a text or none; the other kinds are those of a branch
            towards = chat(model, turns, negative=system).branches[0].context
            pairs.append((towards, chat(model, turns, negative=negative).branches[0].context))
    return pairs


def read_pair_lines(
    source: Iterable[bytes], *, model: Model, system: str | None = None, negative: str | None = None
) -> list[tuple[Any, Any]]:
    """Pairs from lines of JSON: {"positive": TEXT, "negative": TEXT}; with a system message and another one, questions:
    {"prompt": TEXT}.

    Args:
        system, negative: system messages, "none" or "default"; both or neither.

    Raises:
        UsageError: a line is something else.
    """
    named = {one.value: one for one in (NO_SYSTEM, DEFAULT_SYSTEM)}
    is_chat = system is not None and negative is not None
    pairs, questions = [], []
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
        except ValueError as error:
            raise PromptError(f"line {number} is not valid JSON: {error}") from None
        wanted = ("prompt",) if is_chat else SIDES
        if not isinstance(record, dict) or set(record) != set(wanted):
            shape = ", ".join(f'"{name}": TEXT' for name in wanted)
            hint = "" if is_chat else "; for questions under two system messages give --system and --negative-system"
            raise UsageError(f"line {number} is {line.decode().strip()[:40]!r}; write {{{shape}}}{hint}")
        bad = [name for name in wanted if not isinstance(record[name], str) or not record[name]]
        if bad:
            raise UsageError(f"line {number} has {record[bad[0]]!r:.40} as its {bad[0]}; give a text that is not empty")
        if is_chat:
            questions.append(record["prompt"])
        else:
            pairs.append((record["positive"], record["negative"]))
    if system is not None and negative is not None:
        return chat_pairs(model, questions, system=named.get(system, system), negative=named.get(negative, negative))
    return pairs
