"""Answers to questions about stories: what each way of reading the passage is worth."""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import counterpoint as cp
from counterpoint.contexts import documents
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.train.records import Broken, find_file, read_records

MAX_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Question:
    passage: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to answer. `reads`: "both" branches, the "passage" alone, or the "question" alone."""

    name: str
    guide: cp.Guide
    temperature: float = 0.0
    reads: str = "both"


def all_arms() -> list[Arm]:
    """Greedy, and sampled at temperature 1, where plausibility alone is more than nothing."""
    plain, adaptive = cp.Guide(scale=1), cp.Guide(scale=2, adaptive="jsd")
    arms = [Arm("question alone", plain, reads="question"), Arm("unguided", plain, reads="passage")]
    arms += [Arm(f"context-aware, scale {scale:g}", cp.Guide(scale=scale)) for scale in (1.5, 2, 3)]
    arms += [Arm("context-aware, adaptive (scale 2)", adaptive)]
    arms += [Arm("sampled, unguided", plain, 1.0, "passage"), Arm("sampled, temperature 0.5", plain, 0.5, "passage")]
    arms += [Arm("sampled, plausibility 0.1 alone", cp.Guide(scale=1, plausibility=0.1), 1.0, "passage")]
    arms += [Arm(f"sampled, context-aware, scale {scale:g}", cp.Guide(scale=scale), 1.0) for scale in (1.5, 2, 3)]
    return [*arms, Arm("sampled, context-aware, adaptive (scale 2)", adaptive, 1.0)]


def read_questions(corpus: Path, *, split: str = "test") -> list[Question]:
    """The questions of one split, those that two people answered with both answers."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in read_records(find_file(corpus, "qa"), only=f"split={split}", broken=Broken()):
        key = (record.conditions["context"][0], record.conditions["question"][0])
        found.setdefault(key, []).append(record.text)
    return [Question(*key, tuple(answers)) for key, answers in found.items()]


def words(text: str) -> list[str]:
    """The words that count: lower case, no punctuation, no articles (as SQuAD's scorer)."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact(answer: str, wanted: tuple[str, ...]) -> int:
    """1 where the answer's words are those of one of the wanted answers."""
    return int(any(words(answer) == words(one) for one in wanted))


def f1(answer: str, wanted: tuple[str, ...]) -> float:
    """Best harmonic mean of the share of the answer's words that are wanted and of the wanted that are there."""
    return max(_f1(words(answer), words(one)) for one in wanted)


def _f1(ours: list[str], theirs: list[str]) -> float:
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def measure_qa(model: cp.Model, questions: list[Question], *, seed: int, say: Any) -> dict[str, Any]:
    """F1 and exact match of every arm, with intervals, and differences from unguided. Too long passages are counted."""
    arms, engine = all_arms(), Engine(model, max_rows=48)
    texts: dict[tuple[int, str], str] = {}
    asked: dict[int, tuple[int, str]] = {}
    kept = []
    for question in questions:
        built = documents(question.question, [question.passage])
        if len(model.encode(built.prompt)) + MAX_TOKENS > (model.context_len or 2**31):
            continue
        kept.append(question)
        # All arms of a question stand together, so that its passage is computed once.
        for arm in arms:
            options = {"max_tokens": MAX_TOKENS, "temperature": arm.temperature, "seed": seed + len(kept), "stop": "\n"}
            prompt = {"both": built, "passage": built.prompt, "question": built.branches[0].context}[arm.reads]
            guide = arm.guide if arm.reads == "both" or arm.guide.plausibility else None
            asked[engine.add(prepare(model, prompt, guide=guide, **options))] = (len(kept) - 1, arm.name)
    for progress in engine.run():
        if progress.completion is not None:
            texts[asked[progress.request_id]] = progress.completion.text
            if len(texts) % 500 == 0:
                say(f"{len(texts)} of {len(asked)} answers")
    scores = {
        arm.name: {
            "f1": [f1(texts[i, arm.name], q.answers) for i, q in enumerate(kept)],
            "exact": [exact(texts[i, arm.name], q.answers) for i, q in enumerate(kept)],
        }
        for arm in arms
    }
    rows = []
    for arm in arms:
        base = scores["sampled, unguided" if arm.temperature else "unguided"]
        mine = scores[arm.name]
        rows.append(
            {
                "arm": arm.name,
                "f1": interval(mine["f1"], seed=seed),
                "exact": interval(mine["exact"], seed=seed),
                "f1 over unguided": difference(mine["f1"], base["f1"], seed=seed),
            }
        )
    examples = [
        {"question": q.question, "answers": q.answers} | {arm.name: texts[i, arm.name] for arm in arms[:6]}
        for i, q in enumerate(kept[:3])
    ]
    return {"questions": len(kept), "too long": len(questions) - len(kept), "rows": rows, "examples": examples}
