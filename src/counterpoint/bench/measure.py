"""What is measured: speed in pairs, distance to the memory's limit, time to the first token, memory, overhead."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from counterpoint import formulas
from counterpoint.bench.machine import peak_rss_bytes, read_bandwidth, reset_peak_rss, step_bytes
from counterpoint.bench.paired import run_paired
from counterpoint.bench.ways import Clock, Task, engine_way, transformers_way
from counterpoint.engine import Engine, Observation, generate
from counterpoint.guide import Guide
from counterpoint.models.model import Model

SEED = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One measured value.

    Args:
        name: what it is. value: in `unit`. low, high: least and largest of the rounds; None where there is one value.
        aim: at most this; None where it is only reported.
    """

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    aim: float | None = None


def gpt2_124m(dtype: str, *, compile: bool = False) -> Model:
    """The 124M configuration of GPT-2 with random weights, seeded."""
    torch.manual_seed(SEED)
    config = GPT2Config(bos_token_id=None, eos_token_id=None, pad_token_id=0)
    return Model(GPT2LMHeadModel(config).to(getattr(torch, dtype)), name="gpt2-124m", compile=compile)


def random_task(model: Model, *, num_branches: int = 2, context_len: int = 48, num_tokens: int = 32) -> Task:
    """A task of random tokens; seeded."""
    source = torch.Generator().manual_seed(SEED)
    texts = torch.randint(model.vocab_size, (num_branches, context_len), generator=source).tolist()
    return Task(tuple(texts[0]), tuple(map(tuple, texts[1:])), num_tokens=num_tokens)


def one_request(model: Model, task: Task, *, rounds: int, aims: dict[str, float] | None = None) -> list[Line]:
    """One request at a time: four ways in pairs, steps, the first token, and the distance to the limit."""
    aims, plain, clock = aims or {}, Clock(), Clock()
    ways = {
        "transformers unguided": transformers_way(model, task, guided=False),
        "transformers guided": transformers_way(model, task, guided=True),
        "ours unguided": engine_way(model, [task], guided=False, clock=plain),
        "ours guided": engine_way(model, [task], guided=True, clock=clock),
    }
    paired = run_paired(ways, rounds=rounds)
    lines = [Line(name, paired.median(name) * 1e3 / task.num_tokens, "ms a token") for name in ways]
    for base in ("ours unguided", "transformers guided", "transformers unguided"):
        low, high = paired.spread("ours guided", base)
        name = f"ours guided / {base}"
        lines.append(Line(name, paired.ratio("ours guided", base), "", low, high, aims.get(name)))
    step = statistics.median(clock.steps_s[1:])
    limit = step_bytes(model) / read_bandwidth()
    overhead = (
        statistics.median((s - f) / s for s, f in zip(clock.steps_s[1:], clock.forward_s[1:]) if f)
        if any(clock.forward_s[1:])
        else None
    )
    lines += [
        Line("a guided step", step * 1e3, "ms"),
        Line("reading the weights once", limit * 1e3, "ms"),
        Line("a guided step / reading the weights once", step / limit, aim=aims.get("limit")),
        Line("first token, guided", clock.first_s * 1e3, "ms"),
    ]
    if overhead is not None:
        lines.append(Line("our share of a guided step, beside the model's forward", overhead * 100, "%", aim=8))
    return lines


def many_requests(model: Model, tasks: list[Task], *, rounds: int, aim: float | None = None) -> list[Line]:
    """All tasks at once by our engine, against transformers' guided `generate` one after the other."""
    one = transformers_way(model, tasks[0], guided=True)
    ways = {"one in transformers": one, "all in ours": engine_way(model, tasks, guided=True)}
    paired = run_paired(ways, rounds=rounds)
    ratio = paired.ratio("all in ours", "one in transformers") / len(tasks)
    low, high = (bound / len(tasks) for bound in paired.spread("all in ours", "one in transformers"))
    tokens = sum(task.num_tokens for task in tasks)
    name = f"{len(tasks)} guided requests / one after the other in transformers"
    return [
        Line(f"{len(tasks)} guided requests at once", tokens / paired.median("all in ours"), "tokens a second"),
        Line(name, ratio, "", low, high, aim),
    ]


def drafted(model: Model, task: Task, *, draft_tokens: int, rounds: int, aim: float | None = None) -> list[Line]:
    """A text that repeats what was said before, with guesses and without, against transformers unguided."""
    ways = {
        "transformers unguided": transformers_way(model, task, guided=False),
        "plain": engine_way(model, [task], guided=True),
        "drafted": engine_way(model, [task], guided=True, draft_tokens=draft_tokens),
    }
    paired = run_paired(ways, rounds=rounds)
    low, high = paired.spread("drafted", "transformers unguided")
    guided = _completion(model, task, draft_tokens=draft_tokens)
    if guided.token_ids != _completion(model, task, draft_tokens=0).token_ids:
        raise RuntimeError("drafting has changed the tokens")
    return [
        Line("tokens that were guessed", guided.usage.guessed_tokens / task.num_tokens * 100, "%"),
        Line("guided and drafted / guided", paired.ratio("drafted", "plain")),
        Line(
            "guided and drafted / transformers unguided",
            paired.ratio("drafted", "transformers unguided"),
            "",
            low,
            high,
            aim,
        ),
    ]


def decided(model: Model, prompts: list[str], *, negative: str, scale: float, plausibility: float) -> list[Line]:
    """Share of the steps at which one token is plausible, so that the negative can't change it. Sampled, seeded."""
    plausible: list[bool] = []

    def look(_index: int, seen: Observation) -> None:
        left = ~formulas.implausible(seen.cond[None], torch.tensor([plausibility]))
        plausible.append(int(left.sum()) == 1)

    guide = Guide(scale=scale, plausibility=plausibility)
    generate(model, prompts, negative=negative, guide=guide, seed=SEED, max_tokens=64, observe=look)
    share = 100 * sum(plausible) / len(plausible)
    return [Line(f"steps of {len(plausible)} that the prompt decides, plausibility {plausibility:g}", share, "%")]


def branch_bytes(model: Model, task: Task) -> list[Line]:
    """What a guided request holds beside the model: the buffers of its branches, and the growth of the process."""
    engine_way(model, [task], guided=True)()
    reset_peak_rss()
    before = peak_rss_bytes()
    engine = Engine(model)
    engine.add(task.request(guided=True))
    most = 0
    while not engine.is_idle:
        most = max(most, engine.num_bytes)
        engine.step()
    after = peak_rss_bytes()
    num_branches = 1 + len(task.negatives)
    lines = [
        Line(f"buffers of {num_branches} branches", most / 2**20, "MiB"),
        Line("one logits row each, float32", num_branches * model.vocab_size * 4 / 2**20, "MiB"),
    ]
    if before is not None and after is not None:
        lines.append(Line("growth of the process while it ran", (after - before) / 2**20, "MiB"))
    return lines


def _completion(model: Model, task: Task, **options):
    engine = Engine(model, **options)
    engine.add(task.request(guided=True))
    return next(progress.completion for progress in engine.run() if progress.completion)
