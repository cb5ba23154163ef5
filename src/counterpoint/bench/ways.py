"""The same greedy text written in different ways: by transformers' `generate` and by our engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from counterpoint.contexts import ReadBranch
from counterpoint.engine import Engine, Request
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.sampling import Sampling

GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Task:
    """What is written: a prompt, its further branches, and for how long.

    Args:
        prompt: token ids. negatives: token ids of each further branch, equally weighted.
        scale: the guidance scale. num_tokens: tokens to write, whatever they are.
    """

    prompt: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...]
    scale: float = 3.0
    num_tokens: int = 48
    guide: Guide = field(default_factory=Guide)

    def request(self, *, guided: bool) -> Request:
        """As our engine takes it."""
        weight = (1 - self.scale) / max(1, len(self.negatives))
        branches = tuple(ReadBranch(ids, weight) for ids in self.negatives) if guided else ()
        return Request(
            prompt_ids=self.prompt,
            branches=branches,
            guide=self.guide,
            sampling=GREEDY,
            max_tokens=self.num_tokens,
            ignore_eos=True,
        )


@dataclass(slots=True)
class Clock:
    """What a run of our engine took, in seconds: the whole, the first token, the steps, the model's forwards."""

    total_s: float = 0.0
    first_s: float = 0.0
    steps_s: list[float] = field(default_factory=list)
    forward_s: list[float] = field(default_factory=list)


def transformers_way(model: Model, task: Task, *, guided: bool) -> Callable[[], float]:
    """`model.generate`, guided by its own `guidance_scale` where asked."""
    ids = torch.tensor([task.prompt], device=model.device)
    arguments = {
        "max_new_tokens": task.num_tokens,
        "min_new_tokens": task.num_tokens,
        "do_sample": False,
        "pad_token_id": 0,
        "use_cache": True,
    }
    if guided:
        arguments["guidance_scale"] = task.scale
        arguments["negative_prompt_ids"] = torch.tensor([task.negatives[0]], device=model.device)

    def way() -> float:
        start = time.perf_counter()
        model.hf.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
        return time.perf_counter() - start

    return way


def engine_way(
    model: Model, tasks: Sequence[Task], *, guided: bool, clock: Clock | None = None, **options
) -> Callable[[], float]:
    """Our engine, all tasks at once. `clock` keeps the last run; options are the engine's."""

    def way() -> float:
        start = time.perf_counter()
        engine = Engine(model, **options)
        for task in tasks:
            engine.add(task.request(guided=guided))
        steps = _stepped(engine, model, clock) if clock is not None else None
        for _ in engine.run() if steps is None else steps:
            pass
        taken = time.perf_counter() - start
        if clock is not None:
            clock.total_s = taken
        return taken

    return way


def _stepped(engine: Engine, model: Model, clock: Clock):
    """`Engine.run`, with a look at the clock around each step and each forward of the model."""
    clock.steps_s.clear()
    clock.forward_s.clear()
    clock.first_s = 0.0
    began = time.perf_counter()
    entered: list[float] = []
    spent: list[float] = []
    hooks = []
    if not model.compiles:  # a hook would be compiled along with the model
        hooks = [
            model.hf.register_forward_pre_hook(lambda *_: entered.append(time.perf_counter())),
            model.hf.register_forward_hook(lambda *_: spent.append(time.perf_counter() - entered.pop())),
        ]
    try:
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
    finally:
        for hook in hooks:
            hook.remove()
