"""What is measured: speed in pairs, distance to the memory's limit, time to the first token, memory, overhead."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from counterpoint import formulas
from counterpoint.bench.machine import peak_rss_bytes, read_bandwidth, reset_peak_rss, step_bytes
from counterpoint.bench.paired import run_paired
from counterpoint.bench.shapes import SEED
from counterpoint.bench.texts import rewritings
from counterpoint.bench.ways import Clock, Task, engine_way, stepped, transformers_way, untouched
from counterpoint.engine import Completion, Engine, Observation, generate
from counterpoint.guide import Guide
from counterpoint.models.model import Model


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


def random_task(model: Model, *, num_branches: int = 2, context_len: int = 48, num_tokens: int = 32) -> Task:
    """A task of random tokens; seeded."""
    source = torch.Generator().manual_seed(SEED)
    texts = torch.randint(model.vocab_size, (num_branches, context_len), generator=source).tolist()
    return Task(tuple(texts[0]), tuple(map(tuple, texts[1:])), num_tokens=num_tokens)


def one_request(
    model: Model,
    task: Task,
    *,
    rounds: int,
    aims: dict[str, float] | None = None,
    rival: PreTrainedModel | None = None,
) -> list[Line]:
    """One request at a time: four ways in pairs, steps, the first token, and the distance to the limit.

    Args:
        rival: what transformers runs; None is the same model in its own memory layout.
    """
    aims, plain, clock = aims or {}, Clock(), Clock()
    rival = rival or untouched(model.hf)
    ways = {
        "transformers unguided": transformers_way(rival, task, guided=False),
        "transformers guided": transformers_way(rival, task, guided=True),
        "ours unguided": engine_way(model, [task], guided=False, clock=plain),
        "ours guided": engine_way(model, [task], guided=True, clock=clock),
    }
    paired = run_paired(ways, rounds=rounds)
    lines = [Line(name, paired.median(name) * 1e3 / task.num_tokens, "ms a token") for name in ways]
    for base in ("ours unguided", "transformers guided", "transformers unguided"):
        low, high = paired.spread("ours guided", base)
        name = f"ours guided / {base}"
        lines.append(Line(name, paired.ratio("ours guided", base), "", low, high, aims.get(name)))
    step, plain_step = (statistics.median(c.steps_s[1:]) for c in (clock, plain))
    limit = step_bytes(model) / read_bandwidth(model.device)
    sampled = Clock()
    engine_way(model, [dataclasses.replace(task, temperature=1.0)], guided=True, clock=sampled)()
    lines += [
        Line("a guided step", step * 1e3, "ms"),
        Line("a guided step / an unguided one", step / plain_step),
        Line("reading the weights once", limit * 1e3, "ms"),
        Line("a guided step / reading the weights once", step / limit, aim=aims.get("limit")),
        Line("first token, guided", clock.first_s * 1e3, "ms"),
        Line("first token, unguided", plain.first_s * 1e3, "ms"),
    ]
    beside = "our share of a guided step, beside the model's forward"
    if any(clock.forward_s[1:]):  # rows of a kind that can't be timed from within have none
        lines += [Line(f"{beside}{how}", share(c), "%", aim=8) for c, how in ((clock, ""), (sampled, ", sampled"))]
    return lines


def share(clock: Clock) -> float:
    """Per cent of a step that is spent beside the model's forward."""
    return 100 * statistics.median((s - f) / s for s, f in zip(clock.steps_s[1:], clock.forward_s[1:]))


def many_requests(
    model: Model, tasks: list[Task], *, rounds: int, aim: float | None = None, rival: PreTrainedModel | None = None
) -> list[Line]:
    """All tasks at once by our engine, against transformers' guided `generate` one after the other."""
    one = transformers_way(rival or untouched(model.hf), tasks[0], guided=True)
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
        "transformers unguided": transformers_way(untouched(model.hf), task, guided=False),
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


def rewritten(
    model: Model,
    *,
    draft_tokens: int,
    num_tokens: int,
    rounds: int,
    aim: float | None = None,
    rival: PreTrainedModel | None = None,
) -> list[Line]:
    """Real texts that repeat a passage, written after it: each token is forced, so that as many guesses come true as do
    in that text, and the forwards cost what they cost. Transformers writes as many tokens, whatever they are. Time runs
    from the first token on: the prompt is read alike by all."""
    rival, lines, ratios = rival or untouched(model.hf), [], []
    (negative,) = random_task(model).negatives
    for one in rewritings():
        prompt, text = one.pieces(num_tokens=num_tokens, vocab_size=model.vocab_size)
        task = Task(prompt, (negative,), num_tokens=len(text), text=text)
        ways = {
            "transformers unguided": transformers_way(rival, task, guided=False, after_first=True),
            "plain": engine_way(model, [task], guided=True, after_first=True),
            "drafted": engine_way(model, [task], guided=True, after_first=True, draft_tokens=draft_tokens),
        }
        paired = run_paired(ways, rounds=rounds)
        done = _completion(model, task, draft_tokens=draft_tokens)
        if done.token_ids != text:
            raise RuntimeError(f"{one.name}: the text that was written is not the one that was forced")
        repeats = one.name != "text that goes on"
        low, high = paired.spread("drafted", "transformers unguided")
        ratio = paired.ratio("drafted", "transformers unguided")
        ratios += [ratio] if repeats else []
        lines += [
            Line(
                f"{one.name}: tokens of {len(text)} that were guessed", done.usage.guessed_tokens / len(text) * 100, "%"
            ),
            Line(f"{one.name}: guided and drafted / guided", paired.ratio("drafted", "plain")),
            Line(
                f"{one.name}: guided and drafted / transformers unguided",
                ratio,
                "",
                low,
                high,
                aim if repeats else None,
            ),
        ]
    name = f"the {len(ratios)} texts that repeat: guided and drafted / transformers unguided"
    return [*lines, Line(name, statistics.mean(ratios), "", min(ratios), max(ratios), aim)]


def run_ahead(model: Model, task: Task, *, draft_tokens: int, rounds: int) -> list[Line]:
    """A negative that a copy of the model reads, so that it costs a forward of its own, with the prompt's branch running
    ahead and without."""
    other = Model(untouched(model.hf), model.tokenizer, name="a copy")
    ahead = {"draft_tokens": draft_tokens, "draft_ahead": True}
    paired = run_paired(
        {
            "plain": engine_way(model, [task], guided=True, other=other),
            "ahead": engine_way(model, [task], guided=True, other=other, **ahead),
        },
        rounds=rounds,
    )
    done = _completion(model, task, other=other, **ahead)
    if done.token_ids != _completion(model, task, other=other).token_ids:
        raise RuntimeError("running ahead has changed the tokens")
    low, high = paired.spread("ahead", "plain")
    name = f"a negative with a forward of its own, scale {task.scale:g}"
    return [
        Line(
            f"{name}: tokens that the prompt's branch guessed", done.usage.guessed_tokens / task.num_tokens * 100, "%"
        ),
        Line(f"{name}: running ahead / not", paired.ratio("ahead", "plain"), "", low, high),
    ]


def long_contexts(
    model: Model, *, branches: Sequence[int], context_lens: Sequence[int], num_tokens: int = 8
) -> list[Line]:
    """A greedy step, and what the buffers hold, by number of branches and tokens of each.

    All but the last tokens of a context are those of the prompt, so that they are copied, which spares reading them.
    """
    lines = []
    for context_len in context_lens:
        for num_branches in branches:
            texts = random_task(model, num_branches=num_branches + 1, context_len=context_len).negatives
            beginning = texts[0][:-16]
            contexts = [(*beginning, *text[-16:]) for text in texts]
            task, clock = Task(contexts[0], tuple(contexts[1:]), num_tokens=num_tokens), Clock()
            engine = Engine(model)
            engine.add(task.request(guided=True))
            most = 0
            for _ in stepped(engine, model, clock):
                most = max(most, engine.num_bytes)
            name = f"{num_branches} of {context_len}"
            lines += [
                Line(f"{name}: a step", statistics.median(clock.steps_s[2:]) * 1e3, "ms"),
                Line(f"{name}: beside the forward", share(clock), "%"),
                Line(f"{name}: buffers", most / 2**20, "MiB"),
            ]
    return lines


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


def _completion(model: Model, task: Task, *, other: Model | None = None, **options) -> Completion:
    engine = Engine(model, **options)
    engine.add(task.request(guided=True, other=other))
    return next(progress.completion for progress in engine.run() if progress.completion)
