"""Texts under instructions that a program checks: questions, what was written, what judges it, and pages of figures.

Shared by `scripts/watch.py` and `scripts/vectors.py`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch

import counterpoint as cp
from counterpoint.contexts.reading import read_prompt
from counterpoint.evaluate.grid import versions
from counterpoint.evaluate.instructions import INSTRUCTIONS
from counterpoint.evaluate.instructions import QUESTIONS as FIRST_QUESTIONS
from counterpoint.models.rows import Feed
from counterpoint.store import Store, key_of

ROOT = Path(__file__).parent.parent
Record: TypeAlias = dict[str, Any]
Say: TypeAlias = Callable[[str], None]

#: What is chosen is chosen on the first ones; what is reported is of the others, which were written afterwards.
NUM_FIRST = len(FIRST_QUESTIONS)
QUESTIONS = (
    *FIRST_QUESTIONS,
    "How do I paint a wall without leaving streaks?",
    "Why do cats purr?",
    "What is the best way to learn a new language?",
    "How are mountains formed?",
    "What should I bring to a picnic?",
    "Why do we dream?",
    "How can I save money on groceries?",
    "What does a gardener do in winter?",
    "How does a refrigerator keep food cold?",
    "What is a good gift for a teacher?",
    "Why is the sea salty?",
    "How do I choose a pair of running shoes?",
    "What makes bread rise?",
    "How can I be on time more often?",
    "What is a volcano?",
    "Why do some people fear spiders?",
    "How do I clean a window?",
    "What can I see in the night sky?",
    "How did people tell the time before clocks?",
    "What is a balanced breakfast?",
    "Why do we need to drink water?",
    "How do I write a letter to a friend?",
    "What is the difference between a lake and a pond?",
    "How can I make a small room look larger?",
)


def judged(instruction: int, question: int, completion: Any) -> Record:
    """What a store keeps of a text: whether it does what its instruction asks for, and itself."""
    text, is_ended = completion.text or "", completion.finish_reason == "stop"
    return {
        "instruction": instruction, "question": question, "text": text, "token_ids": list(completion.token_ids),
        "fulfilled": INSTRUCTIONS[instruction].is_fulfilled(text, is_ended=is_ended),
    }  # fmt: skip


def messages(instruction: int, question: int) -> list[dict[str, str]]:
    """A question under an instruction."""
    return [
        {"role": "system", "content": INSTRUCTIONS[instruction].system},
        {"role": "user", "content": QUESTIONS[question]},
    ]


def plain_logprobs(model: cp.Model, store: Store, records: Sequence[Record]) -> list[float]:
    """Of each text the mean log-probability of its tokens, as answers to the question alone: no system message, no guide."""
    keys = [key_of("bare", model.fingerprint, QUESTIONS[r["question"]], r["token_ids"]) for r in records]
    known = store.get(keys)
    left = [(key, r) for key, r in zip(keys, records) if key not in known]
    rows = model.new_rows()
    for key, record in left:
        prompt = cp.contexts.chat_prompt(model, [{"role": "user", "content": QUESTIONS[record["question"]]}])
        before, ids = read_prompt(model, prompt), record["token_ids"]
        row = rows.add()
        columns = range(len(before) - 1, len(before) + len(ids) - 1)
        logits = rows.forward([Feed(row, [*before, *ids], columns=columns)])
        rows.free(row)
        logprobs = logits.float().log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
        store.put({key: float(logprobs.mean())})
    known = store.get(keys)
    return [known[key] for key in keys]


def clock() -> Say:
    """Says lines on standard error, each with the seconds since it was made."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    return say


def setting(made_by: str, seed: int) -> Record:
    """What figures depend on besides the script."""
    return {
        "made by": made_by,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
        "seed": seed,
    }


def made_by(record: Record) -> str:
    """The line of a page that tells its setting."""
    return f"Made by `{record['made by']}`, seed {record['seed']}, {record['machine']}, {record['versions']}."


def with_interval(found: Sequence[float], digits: int = 2) -> str:
    """(value, low, high) as a table has them."""
    value, low, high = (format(number, f".{digits}f") for number in found)
    return f"{value} ({low} to {high})"


def write_measured(name: str, record: Record, measured: str) -> None:
    """Write docs/NAME-measured.json, and the measured part of docs/NAME.md anew.

    Args:
        measured: markdown, between the page's marks.
    """
    begin, end = f"<!-- measured: written by scripts/{name}.py -->", "<!-- end of measured -->"
    (ROOT / "docs" / f"{name}-measured.json").write_text(json.dumps(record, indent=1) + "\n")
    path = ROOT / "docs" / f"{name}.md"
    pattern = re.compile(rf"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    text, count = pattern.subn(lambda _: f"{begin}\n\n{measured}\n\n{end}", path.read_text())
    if count != 1:
        raise SystemExit(f"{path.name} has no {begin} and {end}")
    path.write_text(text)
