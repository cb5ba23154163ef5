"""What a watch is worth on SmolLM2: docs/watch-measured.json, and the tables in docs/watch.md.

    python scripts/watch.py            # writes texts, measures, writes the page; goes on after a kill

Questions are answered under instructions that a program checks (`evaluate.instructions`), against the opposite
instructions, in log space, greedily. What windows are known by was chosen on the first half of the questions; what is
reported is of the second. Needs the extra eval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch

import counterpoint as cp
from counterpoint.contexts import chat
from counterpoint.contexts.reading import read_prompt
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.diversity import repetition
from counterpoint.evaluate.grid import versions
from counterpoint.evaluate.instructions import INSTRUCTIONS, QUESTIONS
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.models.rows import Feed
from counterpoint.store import Store, key_of
from counterpoint.watch import Watch
from counterpoint.watch.distance import NAMES, USUAL
from counterpoint.watch.fit import Listener

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- measured: written by scripts/watch.py -->", "<!-- end of measured -->"
TOGETHER = 24  # texts in one batch
MAX_TOKENS = 64
STRONG = 5.0  # the scale at which texts derail
#: a text has derailed where so many of its 3-grams are there already, or its tokens are so improbable on average (nats)
REPEATED, IMPROBABLE = 1 / 3, -3.0
LESS_REPEATED = 0.2
NUM_GOOD, DRAWS = 8, 25
Record = dict[str, Any]


def write_texts(
    model: cp.Model,
    store: Store,
    *,
    scale: float,
    questions: Sequence[int],
    watch: Watch | None = None,
    on_alarm: str = "mark",
    say: Any = print,
) -> list[Record]:
    """Each instruction with each question: the text, whether it does what was asked for, its numbers and its alarms."""
    guide, weights = cp.Guide(scale=scale), model.fingerprint
    asked = [(i, q) for q in questions for i in range(len(INSTRUCTIONS))]
    same = [weights, scale, MAX_TOKENS, on_alarm, None if watch is None else watch.to_dict()]
    keys = {pair: key_of("watch", *same, INSTRUCTIONS[pair[0]].system, QUESTIONS[pair[1]]) for pair in asked}
    known = store.get(list(keys.values()))
    left = [pair for pair in asked if keys[pair] not in known]
    for start in range(0, len(left), TOGETHER):
        part, listener, requests = left[start : start + TOGETHER], Listener(), []
        for i, q in part:
            turns = [{"role": "system", "content": INSTRUCTIONS[i].system}, {"role": "user", "content": QUESTIONS[q]}]
            built = chat(model, turns, negative=INSTRUCTIONS[i].opposite)
            options: Record = {"watch": listener} if watch is None else {"watch": watch, "on_alarm": on_alarm}
            requests.append(prepare(model, built, guide=guide, max_tokens=MAX_TOKENS, temperature=0, **options))
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


def plain_logprobs(model: cp.Model, store: Store, records: Sequence[Record]) -> list[float]:
    """Of each text the mean log-probability of its tokens, as answers to the question alone: no system message, no guide."""
    keys = [key_of("bare", model.fingerprint, r["question"], r["token_ids"]) for r in records]
    known = store.get(keys)
    left = [(key, r) for key, r in zip(keys, records) if key not in known]
    rows = model.new_rows()
    made = {}
    for key, record in left:
        prompt = cp.contexts.chat_prompt(model, [{"role": "user", "content": QUESTIONS[record["question"]]}])
        before, ids = read_prompt(model, prompt), record["token_ids"]
        row = rows.add()
        columns = range(len(before) - 1, len(before) + len(ids) - 1)
        logits = rows.forward([Feed(row, [*before, *ids], columns=columns)])
        rows.free(row)
        logprobs = logits.float().log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
        made[key] = float(logprobs.mean())
    store.put(made)
    known = store.get(keys)
    return [known[key] for key in keys]


def has_derailed(record: Record, logprob: float, repeated: float = REPEATED) -> bool:
    """By its words and by a model that was not watched: nothing here is one of the watch's numbers."""
    return repetition(record["text"]) >= repeated or logprob < IMPROBABLE


def area(scores: np.ndarray, bad: np.ndarray) -> float:
    """The area under the ROC curve: how often a derailed text scores above a good one."""
    ahead = scores[bad][:, None] - scores[~bad][None]
    return float((ahead > 0).mean() + 0.5 * (ahead == 0).mean())


def measure_alarms(
    model: cp.Model, records: Sequence[Record], bad: Sequence[bool], *, seed: int, **options: Any
) -> Record:
    """Over draws of 8 good texts that a watch is fitted on, of the others: area, and what it finds and calls falsely."""
    rng = np.random.default_rng(seed)
    window = options.get("window", 16)
    long = [n for n, record in enumerate(records) if len(record["numbers"]) >= window]
    numbers = {n: np.array(records[n]["numbers"]) for n in long}
    good = [n for n in long if not bad[n]]
    areas, found, falsely, at_5 = [], [], [], []
    draws = DRAWS if options.get("method") != "forest" else DRAWS // 5
    for _ in range(draws):
        fitted = set(rng.choice(good, NUM_GOOD, replace=False).tolist())
        watch = Watch([numbers[n] for n in sorted(fitted)], model="", **options)
        rest = [n for n in long if n not in fitted]
        # Texts are drawn anew with each watch, so that the interval is of both.
        rest = [rest[k] for k in rng.integers(0, len(rest), len(rest))]
        scores = np.array([watch.scores(numbers[n]).max() for n in rest])
        is_bad = np.array([bad[n] for n in rest])
        if is_bad.all() or not is_bad.any():
            continue
        areas.append(area(scores, is_bad))
        found.append(float((scores[is_bad] >= 1).mean()))
        falsely.append(float((scores[~is_bad] >= 1).mean()))
        at_5.append(float((scores[is_bad] > np.quantile(scores[~is_bad], 0.95)).mean()))
    shown = {"area": areas, "found": found, "falsely": falsely, "found at 5 % false": at_5}
    return {
        "n": len(long), "derailed": sum(bad[n] for n in long), "draws": draws,
        **{name: [statistics.fmean(v), *np.quantile(v, [0.025, 0.975]).tolist()] for name, v in shown.items()},
    }  # fmt: skip


def measure_cost(model: cp.Model, watch: Watch, rounds: int, say: Any) -> Record:
    """One request of 48 tokens with and without a watch, in pairs, each first in turn: the median of the ratios."""
    guide = cp.Guide(scale=2)
    turns = [{"role": "system", "content": INSTRUCTIONS[0].system}, {"role": "user", "content": QUESTIONS[0]}]
    built = chat(model, turns, negative=INSTRUCTIONS[0].opposite)
    given: Record = {"guide": guide, "max_tokens": 48, "temperature": 0, "ignore_eos": True}

    def timed(options: Record) -> float:
        began = time.process_time()  # of this process, so that others on the machine count for little
        cp.generate(model, built, **given, **options)
        return time.process_time() - began

    ways: list[Record] = [{}, {"watch": watch}]
    timed(ways[0]), timed(ways[1])
    ratios = []
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        took = {way: timed(ways[way]) for way in order}
        ratios.append(took[1] / took[0])
        say(f"cost: {ratios[-1]:.3f}")
    return {"rounds": rounds, "median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def page(record: Record) -> str:
    """The measured part of docs/watch.md."""

    def three(v: Sequence[float]) -> str:
        return f"{v[0]:.2f} ({v[1]:.2f} to {v[2]:.2f})"

    lines = [
        "## What it is worth",
        "",
        f"SmolLM2-135M-Instruct (4 bits, as `smollm2` loads it), {len(INSTRUCTIONS)} instructions that a program checks, each "
        f"with {record['questions']} questions, against the opposite instruction in log space, greedy, at most {MAX_TOKENS} "
        "tokens. A text has derailed where a third of its 3-grams of words are there already"
        + (
            f", or its mean log-probability as an answer to the bare question is below {IMPROBABLE:g}"
            if record["logprobs"]
            else ""
        )
        + f". A watch is fitted on {NUM_GOOD} good texts drawn "
        f"from the same guide's, and judges the others; {DRAWS} draws, with the texts drawn anew (5 for the forest). Texts "
        "shorter than a window are left out. What windows are known by was chosen on other questions.",
        "",
        "| texts | derailed | AUROC (95 percent) | found at 5 % false alarms | found at the bound | false alarms at the bound |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in record["alarms"].items():
        row = [name, f"{one['derailed']} of {one['n']}", three(one["area"]), three(one["found at 5 % false"])]
        lines.append("| " + " | ".join([*row, three(one["found"]), three(one["falsely"])]) + " |")
    eased = record["ease"]
    lines += [
        "",
        f"**Ease**, at log scale {STRONG:g}, {eased['n']} texts, the watch fitted on {NUM_GOOD} good texts of other questions:",
        "",
        "| | without a watch | ease | difference |",
        "|---|---|---|---|",
        f"| derailed | {three(eased['derailed'][0])} | {three(eased['derailed'][1])} | {three(eased['derailed'][2])} |",
        f"| does what was asked for | {three(eased['fulfilled'][0])} | {three(eased['fulfilled'][1])} | {three(eased['fulfilled'][2])} |",
        f"| tokens written and given up, a text | 0 | {eased['discarded']:.1f} | |",
        "",
        f"{eased['went back']} of the texts went back. The share of derailed texts is {eased['derailed ratio']:.2f} of what it "
        f"was, adherence {eased['fulfilled ratio']:.2f} of what it was.",
        "",
        f"**Cost**: one guided request, 48 tokens, processor time with a watch over without, {record['cost']['rounds']} pairs: median "
        f"{record['cost']['median']:.3f} ({record['cost']['least']:.3f} to {record['cost']['most']:.3f}).",
        "",
        f"Made by `{record['made by']}`, {record['machine']}, {record['versions']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "watch")
    parser.add_argument("--questions", type=int, default=8, help="in each half")
    parser.add_argument("--eased", type=int, default=4, help="questions of the second half that are eased")
    parser.add_argument("--logprobs", action="store_true", help="judge by mean log-probabilities too; takes minutes")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of the cost")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    given.folder.mkdir(parents=True, exist_ok=True)
    store, model = Store(given.folder / "texts.sqlite"), cp.load("smollm2")
    first, second = range(given.questions), range(given.questions, 2 * given.questions)
    tried = write_texts(model, store, scale=STRONG, questions=first, say=say)
    strong = write_texts(model, store, scale=STRONG, questions=second, say=say)

    def judged(records: Sequence[Record], repeated: float = REPEATED) -> list[bool]:
        logprobs = plain_logprobs(model, store, records) if given.logprobs else [0.0] * len(records)
        return [has_derailed(record, value, repeated) for record, value in zip(records, logprobs)]

    bad_tried, bad = judged(tried), judged(strong)
    say(f"derailed: {sum(bad_tried)} and {sum(bad)} of {len(bad)}")
    name = f"log, scale {STRONG:g}"
    alarms = {name: measure_alarms(model, strong, bad, seed=given.seed)}
    alarms[f"{name}, an isolation forest"] = measure_alarms(model, strong, bad, seed=given.seed, method="forest")
    alarms[f"{name}, with the branches' divergence"] = measure_alarms(
        model, strong, bad, seed=given.seed, numbers=NAMES
    )
    alarms[f"{name}, of the prompt's branch alone"] = measure_alarms(
        model, strong, bad, seed=given.seed, numbers=USUAL[:2]
    )
    alarms[f"{name}, derailed from a fifth of 3-grams on"] = measure_alarms(
        model, strong, judged(strong, LESS_REPEATED), seed=given.seed
    )
    alarms[f"{name}, the questions by which it was chosen"] = measure_alarms(model, tried, bad_tried, seed=given.seed)
    weak = write_texts(model, store, scale=3.0, questions=first, say=say)
    alarms["log, scale 3, those questions"] = measure_alarms(model, weak, judged(weak), seed=given.seed)
    for one, found in alarms.items():
        say(f"{one}: AUROC {found['area'][0]:.3f}")
    rng = np.random.default_rng(given.seed)
    good = [n for n, record in enumerate(tried) if len(record["numbers"]) >= 16 and not bad_tried[n]]
    chosen = sorted(rng.choice(good, NUM_GOOD, replace=False).tolist())
    watch = Watch([np.array(tried[n]["numbers"]) for n in chosen], model.fingerprint, model.name)
    asked = range(given.questions, given.questions + given.eased)
    eased = write_texts(model, store, scale=STRONG, questions=asked, watch=watch, on_alarm="ease", say=say)
    strong, bad = strong[: len(eased)], bad[: len(eased)]
    bad_eased = judged(eased)

    def compared(before: Sequence[bool], after: Sequence[bool]) -> list[list[float]]:
        a, b = [float(x) for x in before], [float(x) for x in after]
        found = [interval(a, seed=given.seed), interval(b, seed=given.seed), difference(b, a, seed=given.seed)]
        return [[one.value, one.low, one.high] for one in found]

    fulfilled = [[record["fulfilled"] for record in records] for records in (strong, eased)]
    record: Record = {
        "made by": "python scripts/watch.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
        "questions": given.questions,
        "logprobs": given.logprobs,
        "alarms": alarms,
        "ease": {
            "n": len(eased),
            "derailed": compared(bad, bad_eased),
            "fulfilled": compared(*fulfilled),
            "derailed ratio": sum(bad_eased) / max(sum(bad), 1),
            "fulfilled ratio": sum(fulfilled[1]) / max(sum(fulfilled[0]), 1),
            "discarded": statistics.fmean(record["discarded"] for record in eased),
            "went back": sum(record["discarded"] > 0 for record in eased),
        },
        "cost": measure_cost(model, watch, given.rounds, say),
    }
    (ROOT / "docs" / "watch-measured.json").write_text(json.dumps(record, indent=1) + "\n")
    path = ROOT / "docs" / "watch.md"
    pattern = re.compile(rf"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{page(record)}\n\n{END}", path.read_text()))
    say(f"wrote {path.name}")


if __name__ == "__main__":
    main()
