"""What a watch is worth on SmolLM2: docs/watch-measured.json and the tables of docs/watch.md.

    python scripts/watch.py            # writes texts, measures, writes the page; goes on after a kill

Questions are answered under instructions that a program checks (`evaluate.instructions`), against the opposite
instructions, in log space, one token drawn at temperature 1. Each text is kept with its numbers once it is written.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch

import counterpoint as cp
from counterpoint.contexts import chat
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.instructions import INSTRUCTIONS, QUESTIONS
from counterpoint.store import Store, key_of
from counterpoint.watch import Watch
from counterpoint.watch.fit import Listener

ROOT = Path(__file__).parent.parent
TOGETHER = 24  # texts in one batch


def write_texts(
    model: cp.Model,
    store: Store,
    *,
    scale: float,
    num_questions: int,
    max_tokens: int,
    seed: int,
    watch: Watch | None = None,
    on_alarm: str = "mark",
    say: Any = print,
) -> list[dict[str, Any]]:
    """Each instruction with each question: the text, whether it does what was asked for, its numbers and its alarms."""
    guide = cp.Guide(scale=scale)
    weights = model.fingerprint
    asked = [(i, q) for q in range(num_questions) for i in range(len(INSTRUCTIONS))]
    same = [weights, scale, max_tokens, seed, on_alarm, None if watch is None else watch.to_dict()]
    keys = {pair: key_of("watch", *same, INSTRUCTIONS[pair[0]].system, QUESTIONS[pair[1]]) for pair in asked}
    known = store.get(list(keys.values()))
    left = [pair for pair in asked if keys[pair] not in known]
    for start in range(0, len(left), TOGETHER):
        part, listener, requests = left[start : start + TOGETHER], Listener(), []
        for i, q in part:
            turns = [{"role": "system", "content": INSTRUCTIONS[i].system}, {"role": "user", "content": QUESTIONS[q]}]
            built = chat(model, turns, negative=INSTRUCTIONS[i].opposite)
            options: dict[str, Any] = {"watch": listener} if watch is None else {"watch": watch, "on_alarm": on_alarm}
            number = seed * 1000 + i * 100 + q
            requests.append(prepare(model, built, guide=guide, max_tokens=max_tokens, seed=number, **options))
        began = time.monotonic()
        done = Engine(model).complete(requests)
        made = {}
        for number, ((i, q), (completion,)) in enumerate(zip(part, done)):
            is_ended = completion.finish_reason == "stop"
            made[keys[i, q]] = {
                "instruction": i, "question": q, "text": completion.text, "token_ids": list(completion.token_ids),
                "fulfilled": INSTRUCTIONS[i].is_fulfilled(completion.text or "", is_ended=is_ended),
                "numbers": [] if watch is not None else [list(step) for step in listener.texts[number]],
                "alarms": [[a.step, a.begin, a.score, a.eased] for a in completion.alarms or ()],
                "discarded": completion.usage.discarded_tokens,
            }  # fmt: skip
        store.put(made)
        say(f"scale {scale:g} {on_alarm}: {start + len(part)} of {len(left)} texts, {time.monotonic() - began:.0f} s")
    known = store.get(list(keys.values()))
    return [known[keys[pair]] for pair in asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "watch")
    parser.add_argument("--questions", type=int, default=8, help="of each instruction")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    given.folder.mkdir(parents=True, exist_ok=True)
    store, model = Store(given.folder / "texts.sqlite"), cp.load("smollm2")
    say(f"{model.name}, {platform.machine()}")
    same = {"num_questions": given.questions, "max_tokens": given.max_tokens, "seed": given.seed, "say": say}
    for scale in (5.0, 3.0):
        write_texts(model, store, scale=scale, **same)


if __name__ == "__main__":
    main()
