"""What a watch is worth on SmolLM2: docs/watch-measured.json, and the tables in docs/watch.md.

    python scripts/watch.py            # writes texts, measures, writes the page; goes on after a kill

Questions are answered under instructions that a program checks (`evaluate.instructions`), against the opposite
instructions, in log space, greedily. What windows are known by was chosen on the first questions of `instructed`; what is
reported is of the others. Needs the extras eval and watch.
"""

from __future__ import annotations

import argparse
import base64
import functools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from instructed import (
    INSTRUCTIONS,
    NUM_FIRST,
    QUESTIONS,
    ROOT,
    Record,
    Say,
    clock,
    judged,
    made_by,
    messages,
    plain_logprobs,
    setting,
    with_interval,
    write_measured,
)

import counterpoint as cp
from counterpoint.contexts import chat
from counterpoint.engine import Engine, prepare
from counterpoint.engine.watching import Numbers
from counterpoint.evaluate.diversity import repetition
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.store import Store, key_of
from counterpoint.watch import Watch
from counterpoint.watch.watch import VERSION

TOGETHER = 24  # texts in one batch
MAX_TOKENS = 96
STRONG = 5.0  # the scale at which texts derail
#: a text has derailed where so many of its 3-grams are there already, or its tokens are so improbable on average (nats)
REPEATED, IMPROBABLE = 1 / 3, -3.0
LESS_REPEATED = 0.2
WINDOW = 16


class Recorder:
    """A watch that raises no alarm and keeps each step's numbers and states."""

    window, hears_states = 1, True

    def __init__(self) -> None:
        self.texts: list[list[Numbers]] = []

    def check(self, model: cp.Model) -> None:
        """Any model will do."""

    def start(self) -> _Recording:
        """A new text begins."""
        self.texts.append([])
        return _Recording(self.texts[-1])


class _Recording:
    begin = 0

    def __init__(self, steps: list[Numbers]) -> None:
        self._steps = steps

    def hear(self, step: int, numbers: Numbers) -> None:
        self._steps.append(numbers)

    def cut(self, length: int) -> None:
        del self._steps[length:]


def write_texts(
    model: cp.Model,
    store: Store,
    *,
    scale: float,
    questions: Sequence[int],
    watch: Watch | None = None,
    on_alarm: str = "mark",
    say: Say,
) -> list[Record]:
    """Each instruction with each question: the text, whether it does what was asked for, its numbers and its alarms."""
    guide, weights = cp.Guide(scale=scale), model.fingerprint
    asked = [(i, q) for q in questions for i in range(len(INSTRUCTIONS))]
    same = [weights, scale, MAX_TOKENS, on_alarm, None if watch is None else watch.to_dict()]
    keys = {pair: key_of("watch", *same, INSTRUCTIONS[pair[0]].system, QUESTIONS[pair[1]]) for pair in asked}
    known = store.get(list(keys.values()))
    left = [pair for pair in asked if keys[pair] not in known]
    for start in range(0, len(left), TOGETHER):
        part, recorder, requests = left[start : start + TOGETHER], Recorder(), []
        for i, q in part:
            built = chat(model, messages(i, q), negative=INSTRUCTIONS[i].opposite)
            options: Record = {"watch": recorder} if watch is None else {"watch": watch, "on_alarm": on_alarm}
            requests.append(prepare(model, built, guide=guide, max_tokens=MAX_TOKENS, temperature=0, **options))
        began = time.monotonic()
        done = Engine(model).complete(requests)
        made = {}
        for number, ((i, q), (completion,)) in enumerate(zip(part, done)):
            made[keys[i, q]] = judged(i, q, completion) | {
                "alarms": [[a.step, a.begin, a.score, a.eased] for a in completion.alarms or ()],
                "discarded": completion.usage.discarded_tokens,
            }
            if watch is None:
                steps = recorder.texts[number]
                states = torch.stack([one.hidden.half() for one in steps]).numpy()
                made[keys[i, q]] |= {
                    "numbers": [[s.entropy, s.cond_logprob, s.guided_logprob, s.divergence] for s in steps],
                    "states": base64.b64encode(states.tobytes()).decode(),
                }
        store.put(made)
        say(f"scale {scale:g} {on_alarm}: {start + len(part)} of {len(left)} texts, {time.monotonic() - began:.0f} s")
    known = store.get(list(keys.values()))
    return [known[keys[pair]] for pair in asked]


def derailed(records: Sequence[Record], repeated: float = REPEATED) -> list[bool]:
    """By their words alone: nothing here is one of the watch's numbers."""
    return [repetition(record["text"]) >= repeated for record in records]


def area(scores: np.ndarray, bad: np.ndarray) -> float:
    """The area under the ROC curve: how often a derailed text scores above a good one."""
    ahead = scores[bad][:, None] - scores[~bad][None]
    return float((ahead > 0).mean() + 0.5 * (ahead == 0).mean())


def steps_of(record: Record, features: str) -> np.ndarray:
    """What a watch hears of a text: (T, 4) numbers, or (T, H) states."""
    if features == "numbers":
        return np.array(record["numbers"])
    states = np.frombuffer(base64.b64decode(record["states"]), dtype=np.float16)
    return states.reshape(len(record["numbers"]), -1).astype(np.float64)


def measure_alarms(
    records: Sequence[Record], bad: Sequence[bool], *, seed: int, draws: int = 40, num_good: int = 8, **options: Any
) -> Record:
    """Over draws of good texts that a watch is fitted on, of the others: area, and what it finds and calls falsely."""
    rng = np.random.default_rng(seed)
    long = [n for n, record in enumerate(records) if len(record["numbers"]) >= WINDOW]
    steps = {n: steps_of(records[n], options.get("features", "numbers")) for n in long}
    good = [n for n in long if not bad[n]]
    found: dict[str, list[float]] = {"area": [], "found": [], "falsely": [], "found at 5 % false": []}
    for _ in range(draws):
        fitted = sorted(rng.choice(good, num_good, replace=False).tolist())
        watch = Watch([steps[n] for n in fitted], model="", **options)
        rest = [n for n in long if n not in fitted]
        # Texts are drawn anew with each watch, so that the interval is of both.
        rest = [rest[k] for k in rng.integers(0, len(rest), len(rest))]
        scored = functools.cache(lambda n, watch=watch: float(watch.scores(steps[n]).max()))
        scores, is_bad = np.array([scored(n) for n in rest]), np.array([bad[n] for n in rest])
        if is_bad.all() or not is_bad.any():
            continue
        found["area"].append(area(scores, is_bad))
        found["found"].append(float((scores[is_bad] >= 1).mean()))
        found["falsely"].append(float((scores[~is_bad] >= 1).mean()))
        found["found at 5 % false"].append(float((scores[is_bad] > np.quantile(scores[~is_bad], 0.95)).mean()))
    return {
        "n": len(long), "derailed": sum(bad[n] for n in long), "draws": draws, "good": num_good,
        **{name: [statistics.fmean(v), *np.quantile(v, [0.025, 0.975]).tolist()] for name, v in found.items()},
    }  # fmt: skip


#: each way to watch, by name: options of `measure_alarms`
WAYS: dict[str, Record] = {
    "as it comes": {},
    "24 good texts": {"num_good": 24},
    "without echoes": {"echoes": False},
    "an isolation forest, without echoes": {"method": "forest", "echoes": False, "draws": 8},
    "an isolation forest, with echoes": {"method": "forest", "draws": 8},
    "states, without echoes": {"features": "hidden", "echoes": False, "draws": 8},
    "states, with echoes": {"features": "hidden", "draws": 8},
    "states, an isolation forest, without echoes": {
        "features": "hidden", "method": "forest", "echoes": False, "draws": 4,
    },
    "derailed from a fifth of 3-grams on": {},
    "derailed where improbable too": {},
    "the questions by which it was chosen": {},
}  # fmt: skip


def alarms_of(
    name: str,
    store: Store,
    tried: list[Record],
    records: list[Record],
    seed: int,
    improbable: list[bool] | None,
    say: Say,
) -> Record:
    """One of WAYS, kept: on texts to other questions than those by which it was chosen, unless its name says so."""
    texts = tried if name == "the questions by which it was chosen" else records
    bad = derailed(texts, LESS_REPEATED if name == "derailed from a fifth of 3-grams on" else REPEATED)
    if name == "derailed where improbable too" and improbable is not None:
        bad = [a or b for a, b in zip(bad, improbable)]
    key = key_of("alarms", VERSION, name, WAYS[name], seed, bad, [record["token_ids"] for record in texts])
    if key not in store.get([key]):
        store.put({key: measure_alarms(texts, bad, seed=seed, **WAYS[name])})
    found = store.get([key])[key]
    say(f"{name}: AUROC {found['area'][0]:.3f}")
    return found


def measure_ease(
    model: cp.Model, store: Store, tried: list[Record], before: list[Record], questions: range, *, seed: int, say: Say
) -> tuple[Record, Watch]:
    """Texts anew under a watch that eases, fitted on 8 good texts to other questions; and the watch."""
    rng = np.random.default_rng(seed)
    bad_tried = derailed(tried)
    good = [n for n, record in enumerate(tried) if len(record["numbers"]) >= WINDOW and not bad_tried[n]]
    chosen = sorted(rng.choice(good, 8, replace=False).tolist())
    watch = Watch([steps_of(tried[n], "numbers") for n in chosen], model.fingerprint, model.name)
    after = write_texts(model, store, scale=STRONG, questions=questions, watch=watch, on_alarm="ease", say=say)
    before = [record for record in before if record["question"] in questions]

    def compared(name: str, a: Sequence[bool], b: Sequence[bool]) -> Record:
        one, other = [float(x) for x in a], [float(x) for x in b]
        found = (interval(one, seed=seed), interval(other, seed=seed), difference(other, one, seed=seed))
        return {name: [[x.value, x.low, x.high] for x in found], f"{name} ratio": sum(other) / max(sum(one), 1)}

    return {
        "n": len(after),
        **compared("derailed", derailed(before), derailed(after)),
        **compared("fulfilled", [r["fulfilled"] for r in before], [r["fulfilled"] for r in after]),
        "discarded": statistics.fmean(record["discarded"] for record in after),
        "went back": sum(record["discarded"] > 0 for record in after),
        "gentler": {
            str(scale): sum(derailed(write_texts(model, store, scale=scale, questions=questions, say=say)))
            for scale in (STRONG, STRONG / 2, STRONG / 4)
        },
    }, watch


def measure_cost(model: cp.Model, watch: Watch, rounds: int, say: Say) -> Record:
    """One request of 96 tokens with and without a watch, in pairs, each first in turn: the median of the ratios."""
    built = chat(model, messages(0, 0), negative=INSTRUCTIONS[0].opposite)
    given: Record = {"guide": cp.Guide(scale=2), "max_tokens": MAX_TOKENS, "temperature": 0, "ignore_eos": True}

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
    alarms, eased, cost = record["alarms"], record["ease"], record["cost"]
    usual, chosen = alarms["as it comes"], alarms["the questions by which it was chosen"]
    lines = [
        "## What it is worth",
        "",
        f"In short: on questions by which nothing was chosen, a watch of {usual['good']} good texts tells texts that repeat "
        f"themselves from good ones with an AUROC of {with_interval(usual['area'])}, and finds "
        f"{100 * usual['found at 5 % false'][0]:.0f} percent of them at 5 percent false alarms; without echoes the AUROC is "
        f"{alarms['without echoes']['area'][0]:.2f}. At its own bound {100 * usual['falsely'][0]:.0f} percent of the good texts "
        f"raise an alarm. *Ease* leaves {100 * eased['derailed ratio']:.0f} percent of the derailed texts and "
        f"{100 * eased['fulfilled ratio']:.0f} percent of the adherence.",
        "",
        f"SmolLM2-135M-Instruct (as `smollm2` loads it), {len(INSTRUCTIONS)} instructions that a program checks, each with "
        f"{record['questions']} questions, against the opposite instruction in log space at scale {STRONG:g}, greedy, at most "
        f"{MAX_TOKENS} tokens. A text has derailed where a third of its 3-grams of words are there already. A watch is fitted on "
        f"{usual['good']} good texts drawn from these and judges the others; 40 draws (8 with a forest or states, 4 with both), "
        f"with the texts drawn anew. Texts shorter than a window are left out. What a window is known by was chosen on the texts "
        f"of the last line, to {record['tried']} other questions ({chosen['derailed']} of {chosen['n']} derailed)."
        + (
            f" Improbable: a mean log-probability below {IMPROBABLE:g} as answers to the bare question."
            if "derailed where improbable too" in alarms
            else ""
        ),
        "",
        "| | derailed | AUROC (95 percent) | found at 5 % false alarms | found at the bound | false alarms at the bound |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in alarms.items():
        row = [name, f"{one['derailed']} of {one['n']}"]
        row += [with_interval(one[column]) for column in ("area", "found at 5 % false", "found", "falsely")]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        f"**Ease**, at scale {STRONG:g}, {eased['n']} texts to questions by which nothing was chosen, the watch fitted on 8 good "
        "texts of other questions:",
        "",
        "| | without a watch | ease | difference |",
        "|---|---|---|---|",
        f"| derailed | {' | '.join(with_interval(one) for one in eased['derailed'])} |",
        f"| does what was asked for | {' | '.join(with_interval(one) for one in eased['fulfilled'])} |",
        f"| tokens written and given up, a text | 0 | {eased['discarded']:.1f} | |",
        "",
        f"{eased['went back']} of the texts went back. The share of derailed texts is {eased['derailed ratio']:.2f} of what it "
        f"was, adherence {eased['fulfilled ratio']:.2f} of what it was. Written from the beginning without a watch, "
        + ", ".join(f"{count} derail at scale {float(scale):g}" for scale, count in eased["gentler"].items())
        + ". What derails as often at a gentle scale is the model's own, and no gentler guide ends it.",
        "",
        f"**Cost**: one guided request, {MAX_TOKENS} tokens, processor time with a watch over without, {cost['rounds']} pairs: "
        f"median {cost['median']:.3f} ({cost['least']:.3f} to {cost['most']:.3f}).",
        "",
        made_by(record),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "watch")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS) - NUM_FIRST, help="that are reported")
    parser.add_argument("--eased", type=int, default=10, help="questions of these that are eased")
    parser.add_argument("--logprobs", action="store_true", help="judge by mean log-probabilities too; takes minutes")
    parser.add_argument("--only", choices=tuple(WAYS), default=None, help="compute this row, and no page")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of the cost")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    say = clock()
    given.folder.mkdir(parents=True, exist_ok=True)
    store, model = Store(given.folder / "texts.sqlite"), cp.load("smollm2", compile=False)
    reported = range(NUM_FIRST, NUM_FIRST + given.questions)
    tried = write_texts(model, store, scale=STRONG, questions=range(NUM_FIRST), say=say)
    records = write_texts(model, store, scale=STRONG, questions=reported, say=say)
    say(f"derailed: {sum(derailed(tried))} of {len(tried)} and {sum(derailed(records))} of {len(records)}")
    logprobs = plain_logprobs(model, store, records) if given.logprobs else None
    improbable = None if logprobs is None else [one < IMPROBABLE for one in logprobs]
    ways = [name for name in WAYS if improbable is not None or name != "derailed where improbable too"]
    if given.only is not None:
        alarms_of(given.only, store, tried, records, given.seed, improbable, say)
        return
    alarms = {name: alarms_of(name, store, tried, records, given.seed, improbable, say) for name in ways}
    eased, watch = measure_ease(model, store, tried, records, reported[: given.eased], seed=given.seed, say=say)
    record = setting("python scripts/watch.py", given.seed) | {
        "questions": given.questions, "tried": NUM_FIRST, "alarms": alarms, "ease": eased,
        "cost": measure_cost(cp.load("smollm2"), watch, given.rounds, say),
    }  # fmt: skip
    write_measured("watch", record, page(record))
    say("wrote watch.md")


if __name__ == "__main__":
    main()
