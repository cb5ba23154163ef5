"""Guided continuations of many contexts, each with sampling arguments of its own. Knows nothing of tasks or files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.engine import Completion, Engine, prepare
from counterpoint.guide import Guide
from counterpoint.models.model import Model


@dataclass(frozen=True, slots=True)
class Passage:
    """A context to continue.

    Args:
        context: token ids of the conditional branch.
        negative: token ids of the further branch; None for no branch.
        arguments: the sampling arguments of `counterpoint.generate`; its seed makes it repeatable.
    """

    context: tuple[int, ...]
    negative: tuple[int, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def write(model: Model, passages: Sequence[Passage], guide: Guide, *, max_rows: int = 64) -> list[Completion]:
    """Continue all passages in one engine, in the order given.

    A passage without a negative, or whose negative is its context, is written without a branch: guidance can't change it.

    Raises:
        UsageError: a context or a sampling argument can't be used.
    """
    unguided = dataclasses.replace(guide, scale=1.0)
    requests = []
    for passage in passages:
        has_branch = guide.scale != 1 and passage.negative is not None and passage.negative != passage.context
        requests.append(
            prepare(
                model,
                passage.context,
                negative=passage.negative if has_branch else None,
                guide=guide if has_branch else unguided,
                **passage.arguments,
            )
        )
    return [samples[0] for samples in Engine(model, max_rows=max_rows).complete(requests)]
