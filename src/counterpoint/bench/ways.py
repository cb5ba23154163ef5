"""The same greedy text written in different ways: by transformers' `generate` and by our engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.contexts import ReadBranch
from counterpoint.engine import Engine, Request
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Task:
    """What is written: a prompt, its further branches, and for how long.

    Args:
        prompt: token ids. negatives: token ids of each further branch, equally weighted.
        scale: the guidance scale. num_tokens: tokens to write, whatever they are.
        temperature: 0 is greedy; samples are seeded.
        text: the tokens that our engine is made to write, by a constraint; empty for what the model says.
    """

    prompt: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...]
    scale: float = 3.0
    num_tokens: int = 48
    guide: Guide = field(default_factory=Guide)
    text: tuple[int, ...] = ()
    temperature: float = 0.0

    def request(self, *, guided: bool, other: Model | None = None) -> Request:
        """As our engine takes it; `other` reads the further branches, where it is given."""
        weight = (1 - self.scale) / max(1, len(self.negatives))
        branches = tuple(ReadBranch(ids, weight, model=other) for ids in self.negatives) if guided else ()
        return Request(
            prompt_ids=self.prompt,
            branches=branches,
            guide=self.guide,
            sampling=Sampling(temperature=self.temperature),
            seed=0,
            max_tokens=self.num_tokens,
            ignore_eos=True,
            processors=(self._next_of_text,) if self.text else (),
        )

    def _next_of_text(self, _prompt_ids: Sequence[int], output_ids: Sequence[int], scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, float("-inf"))
        forced[self.text[len(output_ids)]] = 0.0
        return forced


@dataclass(slots=True)
class Clock:
    """What a run of our engine took, in seconds: the whole, the first token, the steps, the model's forwards."""

    total_s: float = 0.0
    first_s: float = 0.0
    steps_s: list[float] = field(default_factory=list)
    forward_s: list[float] = field(default_factory=list)


def untouched(hf: PreTrainedModel) -> PreTrainedModel:
    """The same model with weights as transformers lays them out: ours change their place in memory."""
    with torch.no_grad():
        copy = type(hf)(hf.config).to(hf.device, hf.dtype).eval()
        copy.load_state_dict(hf.state_dict())
    copy.generation_config = hf.generation_config
    return copy


class _FirstToken:
    """A streamer of transformers that keeps the time of the first token."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self._num_seen = 0

    def put(self, _ids: Tensor) -> None:
        self._num_seen += 1
        if self._num_seen == 2:  # the prompt comes first
            self.at_s = time.perf_counter()

    def end(self) -> None:
        pass


def transformers_way(
    hf: PreTrainedModel, task: Task, *, guided: bool, after_first: bool = False
) -> Callable[[], float]:
    """`model.generate`, guided by its own `guidance_scale` where asked; all of it, or from the first token on."""
    ids = torch.tensor([task.prompt], device=hf.device)
    arguments = {
        "max_new_tokens": task.num_tokens,
        "min_new_tokens": task.num_tokens,
        "do_sample": False,
        "pad_token_id": 0,
        "use_cache": True,
    }
    if guided:
        arguments["guidance_scale"] = task.scale
        arguments["negative_prompt_ids"] = torch.tensor([task.negatives[0]], device=hf.device)

    def way() -> float:
        start, first = time.perf_counter(), _FirstToken()
        hf.generate(ids, attention_mask=torch.ones_like(ids), streamer=first if after_first else None, **arguments)
        return time.perf_counter() - (first.at_s if after_first else start)

    return way


def engine_way(
    model: Model,
    tasks: Sequence[Task],
    *,
    guided: bool,
    clock: Clock | None = None,
    other: Model | None = None,
    after_first: bool = False,
    **options: Any,
) -> Callable[[], float]:
    """Our engine, all tasks at once. `clock` keeps the last run; `other` is that of `Task.request`; `after_first` leaves
    out what comes before the first token; options are the engine's."""

    def way() -> float:
        start = time.perf_counter()
        engine = Engine(model, **options)
        for task in tasks:
            engine.add(task.request(guided=guided, other=other))
        steps = stepped(engine, model, clock) if clock is not None else None
        for at, _ in enumerate(engine.run() if steps is None else steps):
            if after_first and at == 0:
                start = time.perf_counter()
        taken = time.perf_counter() - start
        if clock is not None:
            clock.total_s = taken
        return taken

    return way


class _Timed:
    """A model, or its compiled steps, whose calls are timed. What is called within such a call counts once."""

    def __init__(self, inner: Any, spent: list[float]) -> None:
        self._inner, self._spent = inner, spent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._time(self._inner, args, more)

    def run(self, *args: Any, **more: Any) -> Any:
        return self._time(self._inner.run, args, more)

    def _time(self, call: Callable, args: tuple, more: dict[str, Any]) -> Any:
        start, before = time.perf_counter(), sum(self._spent)
        try:
            return call(*args, **more)
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()  # what it has started is its own
            self._spent.append(time.perf_counter() - start - (sum(self._spent) - before))


def stepped(engine: Engine, model: Model, clock: Clock):
    """`Engine.run`, with a look at the clock around each step and each forward of the model."""
    clock.steps_s.clear()
    clock.forward_s.clear()
    clock.first_s = 0.0
    began = time.perf_counter()
    spent: list[float] = []
    rows = engine._rows_of(model)  # a hook on the model itself would be compiled along with it
    for name in ("_model", "_fixed", "_recorded"):
        if getattr(rows, name, None) is not None:
            setattr(rows, name, _Timed(getattr(rows, name), spent))
    while not engine.is_idle:
        spent.clear()
        start = time.perf_counter()
        made = engine.step()
        now = time.perf_counter()
        if made and not clock.first_s:
            clock.first_s = now - began
        clock.steps_s.append(now - start)
        clock.forward_s.append(sum(spent))
        yield from made
