"""The training of an adapter: steps over the examples in an order that the seed gives, with checkpoints between them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoint.distillation.answers import Example
from counterpoint.distillation.config import Training
from counterpoint.distillation.loss import divergence, surprise
from counterpoint.distillation.student import Student
from counterpoint.distillation.targets import Target, target_of
from counterpoint.models.model import Model
from counterpoint.models.switched import Switch
from counterpoint.train import checkpoint


@dataclass(frozen=True, slots=True)
class Learnt:
    """How training went.

    Args:
        steps, tokens: taken, and answers' tokens learnt from.
        seconds: of training, over all starts.
        curve: (step, nats a token of the training loss, nats a token on what is held out or None).
        resumed_at: the step that a checkpoint was taken up at; None where there was none.
    """

    steps: int
    tokens: int
    seconds: float
    curve: tuple[tuple[int, float, float | None], ...]
    resumed_at: int | None = None


class Lessons:
    """The examples with their targets. A target of few tokens is made once; one of all tokens at each use.

    Args:
        teacher: reads the prompt's branch.
        off: takes the student's adapter off while targets are made: other branches' models may have the same weights.
    """

    def __init__(self, teacher: Model, examples: Sequence[Example], config: Training, *, off: Switch) -> None:
        self.examples, self._teacher, self._config, self._off = list(examples), teacher, config, off
        self._made: dict[int, Target] = {}

    def target(self, number: int) -> Target:
        """What the student shall predict in one example."""
        if number in self._made:
            return self._made[number]
        with self._off():
            made = target_of(self._teacher, self.examples[number], top=self._config.top)
        if self._config.top:
            self._made[number] = made
        return made

    def losses(self, student: Student, numbers: Sequence[int]) -> list[Tensor]:
        """Of each example the (T,) losses at its answer's tokens, in one forward of the student."""
        chosen = [self.examples[number] for number in numbers]
        by_samples = self._config.target == "samples"
        targets = [
            None if by_samples and not one.is_kept else self.target(number) for number, one in zip(numbers, chosen)
        ]
        read = student.logprobs([(one.reading.student_ids, one.answer_ids) for one in chosen])
        return [
            surprise(torch.tensor(one.answer_ids, device=logprobs.device), logprobs)
            if target is None
            else divergence(target, logprobs)
            for one, target, logprobs in zip(chosen, targets, read)
        ]

    @torch.no_grad()
    def mean(self, student: Student) -> float:
        """The loss in nats a token over all examples, read one by one."""
        total = sum(float(self.losses(student, [number])[0].double().sum()) for number in range(len(self.examples)))
        return total / sum(len(one.answer_ids) for one in self.examples)


def order_of(num_examples: int, config: Training, seed: int) -> list[list[int]]:
    """The examples' numbers that each step reads: every epoch all of them, in an order that the seed and the epoch give."""
    steps = []
    for epoch in range(config.epochs):
        numbers = list(range(num_examples))
        random.Random(f"{seed}/epoch/{epoch}").shuffle(numbers)
        steps += [numbers[at : at + config.batch] for at in range(0, num_examples, config.batch)]
    return steps


def train(
    student: Student,
    lessons: Lessons,
    held_out: Lessons | None,
    config: Training,
    *,
    path: Path,
    fingerprint: str,
    seed: int,
    say: Callable[[str], None],
    on_step: Callable[[int, int], None] = lambda step, num_steps: None,
) -> Learnt:
    """Train the student's adapter; with a checkpoint at `path` go on from there, to the same result, bit for bit.

    Args:
        held_out: measured on now and then; None where nothing is held out.
        fingerprint: tells this run from others.
        seed: of the order and of dropout.
        on_step: called after each step with its number, from 1, and how many there are.

    Raises:
        UsageError: the checkpoint is of another run.
    """
    steps = order_of(len(lessons.examples), config, seed)
    names = list(student.parameters)
    weights = [student.parameters[name] for name in names]
    optimiser = torch.optim.AdamW(weights, lr=config.rate, weight_decay=config.weight_decay)
    kept = checkpoint.read(path, fingerprint=fingerprint)
    at, tokens, seconds, curve, recent = 0, 0, 0.0, [], []
    on_cuda = student.hf.device.type == "cuda"
    with torch.random.fork_rng(devices=[student.hf.device] if on_cuda else []):
        torch.manual_seed(seed)
        if kept is not None:
            student.restore(kept["adapter"])
            optimiser.load_state_dict(kept["optimiser"])
            torch.set_rng_state(kept["rng"])
            if on_cuda:
                torch.cuda.set_rng_state(kept["cuda_rng"], student.hf.device)
            at, tokens, seconds = kept["step"], kept["tokens"], kept["seconds"]
            curve, recent = [tuple(row) for row in kept["curve"]], list(kept["recent"])
            say(f"resumed at step {at} of {len(steps)}")
            if kept["threads"] != torch.get_num_threads():
                say(f"it had {kept['threads']} threads and has {torch.get_num_threads()} now: last bits will differ")
        resumed, saved_s, clock = (None if kept is None else at), time.monotonic(), time.monotonic()
        while at < len(steps):
            for group in optimiser.param_groups:
                group["lr"] = config.rate * config.rate_at(at, len(steps))
            recent.append(_step(student, lessons, steps[at], config))
            torch.nn.utils.clip_grad_norm_(weights, config.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            tokens += sum(len(lessons.examples[number].answer_ids) for number in steps[at])
            at += 1
            on_step(at, len(steps))
            is_last = at == len(steps)
            if is_last or (config.measure_every and at % config.measure_every == 0):
                curve.append((at, sum(recent) / len(recent), None if held_out is None else held_out.mean(student)))
                recent = []
                say(_told(curve[-1], len(steps)))
            now = time.monotonic()
            seconds, clock = seconds + now - clock, now
            if is_last or now - saved_s >= config.checkpoint_s:
                state: dict[str, Any] = {
                    "fingerprint": fingerprint, "step": at, "tokens": tokens, "seconds": seconds, "curve": curve,
                    "recent": recent, "threads": torch.get_num_threads(), "adapter": student.state(), "optimiser": optimiser.state_dict(),
                    "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state(student.hf.device) if on_cuda else None,
                }  # fmt: skip
                checkpoint.save(path, state)
                saved_s = time.monotonic()
    return Learnt(len(steps), tokens, seconds, tuple(curve), resumed)


def _step(student: Student, lessons: Lessons, numbers: Sequence[int], config: Training) -> float:
    """Gradients of one step's mean loss a token, in nats, each token by its example's weight."""
    weighed = {number: lessons.examples[number].weight for number in numbers}
    whole = sum(weighed[number] * len(lessons.examples[number].answer_ids) for number in numbers)
    total = 0.0
    for at in range(0, len(numbers), config.together):
        some = numbers[at : at + config.together]
        losses = lessons.losses(student, some)
        loss = sum((one.sum() * weighed[number] for number, one in zip(some, losses)), torch.zeros(())) / whole
        loss.backward()
        total += float(loss.detach())
    return total


def _told(row: tuple[int, float, float | None], num_steps: int) -> str:
    held = "" if row[2] is None else f", {row[2]:.3f} held out"
    return f"step {row[0]} of {num_steps}: {row[1]:.3f} nats a token{held}"
