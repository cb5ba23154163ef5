"""One HTTP request as the engine takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counterpoint.engine import Request
from counterpoint.models.model import Model
from counterpoint.server.limits import Limits
from counterpoint.trace.recorder import Recorder
from counterpoint.watch import Watch
from counterpoint.wire import Calls


@dataclass(frozen=True, slots=True)
class Served:
    """What requests are read for.

    Args:
        model: the one that answers.
        models: others that branches can name.
        watches: those that requests can name.
    """

    model: Model
    limits: Limits
    models: Mapping[str, Model]
    watches: Mapping[str, Watch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One HTTP request as the engine takes it.

    Args:
        requests: one for each prompt; all have `num_samples` samples.
        num_samples: samples that are drawn of each prompt.
        num_shown: how many of them are shown, the likeliest.
        echoes: for each prompt, what is shown before the output.
        scores: for each prompt, the request that scores it; None where its scores are not asked for.
        writes: whether anything is generated; without it the prompts are echoed or scored only.
        shows_logprobs: whether log-probabilities are shown.
        shows_ids: whether token ids are shown.
        calls: what reads the output as calls of tools, where they are demanded.
        recorders: for each prompt, what watches its steps, where a trace is asked for.
        shown: for each prompt, what its branches read, where that is asked for.
        watch: the name of the watch, where one is asked for.
    """

    requests: tuple[Request, ...]
    num_samples: int
    num_shown: int
    echoes: tuple[str, ...]
    scores: tuple[Request | None, ...]
    writes: bool = True
    shows_logprobs: bool = False
    shows_ids: bool = False
    calls: Calls | None = None
    recorders: tuple[Recorder | None, ...]
    shown: tuple[dict[str, Any] | None, ...]
    watch: str | None = None

    @property
    def tasks(self) -> list[tuple[bool, int, Request]]:
        """What the engine runs: whether it scores a prompt, the prompt's number, the request."""
        writing = [(False, number, request) for number, request in enumerate(self.requests)] if self.writes else []
        scoring = [(True, number, request) for number, request in enumerate(self.scores) if request is not None]
        return writing + scoring

    @property
    def total(self) -> int:
        """Samples of the engine altogether."""
        return sum(request.num_samples for _, _, request in self.tasks)
