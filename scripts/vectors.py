"""What a control vector is worth on SmolLM2: docs/vectors-measured.json, and the tables in docs/vectors.md.

    python scripts/vectors.py          # fits, writes texts, measures, writes the page; goes on after a kill

For each instruction that a program checks, one vector is fitted on questions under the instruction against its opposite
and tried, with the question alone before it, on other questions.
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
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from watch import plain_logprobs

import counterpoint as cp
from counterpoint.contexts import chat, chat_prompt
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.diversity import repetition
from counterpoint.evaluate.grid import versions
from counterpoint.evaluate.instructions import INSTRUCTIONS, QUESTIONS
from counterpoint.evaluate.intervals import interval
from counterpoint.store import Store, key_of
from counterpoint.vectors.fit import usual_layer
from counterpoint.vectors.pairs import chat_pairs
from counterpoint.vectors.scan import scan

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- measured: written by scripts/vectors.py -->", "<!-- end of measured -->"
MAX_TOKENS = 40
NUM_FITTED = 12  # questions that vectors are fitted on; they are tried on others
STRENGTHS = (0.0, 0.5, 1.0, 1.5)
SCALES = (1.0, 3.0)
NUM_SCANNED = 6
SCANNED = 11  # the instruction whose layers are scanned
Record = dict[str, Any]


def answered(
    model: cp.Model, store: Store, name: str, requests: list[tuple[int, int, Any, Any]], say: Any
) -> list[Record]:
    """One text for each of (instruction, question, model, request); the models share their weights.

    Args:
        name: tells this arm from others in the store.
    """
    weights = model.fingerprint
    keys = [key_of("vectors", weights, name, MAX_TOKENS, INSTRUCTIONS[i].system, QUESTIONS[q]) for i, q, *_ in requests]
    known = store.get(keys)
    began = time.monotonic()
    for reads in dict.fromkeys(one[2] for key, one in zip(keys, requests) if key not in known):
        part = [(key, one) for key, one in zip(keys, requests) if key not in known and one[2] is reads]
        done = Engine(reads).complete([one[3] for _, one in part])
        store.put({
            key: {
                "instruction": i, "question": q, "text": c.text, "token_ids": list(c.token_ids),
                "fulfilled": INSTRUCTIONS[i].is_fulfilled(c.text or "", is_ended=c.finish_reason == "stop"),
            }
            for (key, (i, q, *_)), (c,) in zip(part, done)
        })  # fmt: skip
    say(f"{name}: {time.monotonic() - began:.0f} s")
    known = store.get(keys)
    return [known[key] for key in keys]


def arms(
    model: cp.Model, layer: int | None, questions: range
) -> list[tuple[str, str, list[tuple[int, int, Any, Any]]]]:
    """(kind, name, requests) of each arm."""
    made: list[tuple[str, str, list[tuple[int, int, Any, Any]]]] = []
    given = {"max_tokens": MAX_TOKENS, "temperature": 0}
    vectors = [
        cp.Vector.fit(
            model,
            chat_pairs(model, QUESTIONS[:NUM_FITTED], system=one.system, negative=one.opposite),
            layers=None if layer is None else [layer],
        )
        for one in INSTRUCTIONS
    ]
    for strength in STRENGTHS:
        requests = []
        for i, vector in enumerate(vectors):
            reads = model.with_vector(vector, strength)
            for q in questions:
                prompt = chat_prompt(model, [{"role": "user", "content": QUESTIONS[q]}])
                requests.append((i, q, reads, prepare(reads, prompt, **given)))
        made.append(("vector", f"vector, strength {strength:g}", requests))
    for scale in SCALES:
        requests = []
        for i, one in enumerate(INSTRUCTIONS):
            for q in questions:
                turns = [{"role": "system", "content": one.system}, {"role": "user", "content": QUESTIONS[q]}]
                built = chat(model, turns, negative=one.opposite)
                prompt = built.prompt if scale == 1 else built
                guide = None if scale == 1 else cp.Guide(scale=scale)
                requests.append((i, q, model, prepare(model, prompt, guide=guide, **given)))
        made.append(("guide", f"system message, log, scale {scale:g}", requests))
    return made


def page(record: Record) -> str:
    """The measured part of docs/vectors.md."""
    lines = [
        "## What it is worth",
        "",
        f"SmolLM2-135M-Instruct (4 bits), {len(INSTRUCTIONS)} instructions that a program checks, {record['questions']} questions "
        f"each that no vector was fitted on, greedy, at most {MAX_TOKENS} tokens. A vector is fitted on {NUM_FITTED} other questions "
        f"under the instruction against its opposite, in layer {record['layer']}; its prompt is the question alone, without a "
        "system message. Guided, the system message is read, against its opposite. Fluency is the tokens' mean log-probability "
        "as answers to the bare question.",
        "",
        "| | does what is asked | fluency, nats a token | 3-grams repeated | branches read |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        value, low, high = row["fulfilled"]
        lines.append(
            f"| {row['name']} | {value:.3f} ({low:.3f} to {high:.3f}) | {'–' if row['logprob'] is None else format(row['logprob'], '.2f')} | {row['repetition']:.2f} | {row['branches']} |"
        )
    scanned = record["scan"]
    best = max(scanned, key=lambda layer: layer["recovered"])
    lines += [
        "",
        f"**Layers.** A scan of the {record['scanned']!r} vector: its best layer by itself is {best['layer']}, which moves the "
        f"prediction {best['recovered']:.2f} of the way; layers 1 to 10 move it by {min(s['recovered'] for s in scanned[:10]):.2f} to "
        f"{max(s['recovered'] for s in scanned[:10]):.2f}. The direction tells the held-out texts apart in "
        f"{sum(s['told'] == 1 for s in scanned)} of {len(scanned)} layers: where something can be read is not where it can be written.",
        "",
        "![what each layer's direction does by itself](vectors-layers.svg)",
        "",
        f"Made by `{record['made by']}`, {record['machine']}, {record['versions']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "vectors")
    parser.add_argument("--questions", type=int, default=2, help="that each vector is tried on")
    parser.add_argument("--logprobs", action="store_true", help="fluency too; takes minutes")
    parser.add_argument("--layer", type=int, default=None, help="that vectors are put into")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    given.folder.mkdir(parents=True, exist_ok=True)
    store, model = Store(given.folder / "texts.sqlite"), cp.load("smollm2")
    questions = range(NUM_FITTED, NUM_FITTED + given.questions)
    rows = []
    for kind, name, requests in arms(model, given.layer, questions):
        records = answered(model, store, f"{name}, layer {given.layer}" if kind == "vector" else name, requests, say)
        found = interval([float(r["fulfilled"]) for r in records], seed=given.seed)
        rows.append({
            "name": name, "fulfilled": [found.value, found.low, found.high], "n": len(records),
            "logprob": statistics.fmean(plain_logprobs(model, store, records)) if given.logprobs else None,
            "repetition": statistics.fmean(repetition(r["text"]) for r in records),
            "branches": 2 if kind == "guide" and not name.endswith("scale 1") else 1,
        })  # fmt: skip
        say(f"{name}: {rows[-1]['fulfilled'][0]:.3f}")
    one = INSTRUCTIONS[SCANNED]
    pairs = chat_pairs(model, QUESTIONS[:NUM_SCANNED], system=one.system, negative=one.opposite)
    key = key_of("scan", model.fingerprint, one.system, one.opposite, NUM_SCANNED)
    if key not in store.get([key]):
        from dataclasses import asdict

        store.put({key: [asdict(layer) for layer in scan(model, pairs, on_layer=lambda s: say(f"layer {s.layer}"))]})
    scanned = store.get([key])[key]
    from counterpoint.report.layers import layers_svg
    from counterpoint.vectors.scan import LayerScan

    (ROOT / "docs" / "vectors-layers.svg").write_text(layers_svg([LayerScan(**layer) for layer in scanned]))
    record: Record = {
        "made by": "python scripts/vectors.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
        "questions": given.questions,
        "layer": usual_layer(model) if given.layer is None else given.layer,
        "rows": rows, "scan": scanned, "scanned": one.name,
    }  # fmt: skip
    (ROOT / "docs" / "vectors-measured.json").write_text(json.dumps(record, indent=1) + "\n")
    path = ROOT / "docs" / "vectors.md"
    pattern = re.compile(rf"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{page(record)}\n\n{END}", path.read_text()))
    say(f"wrote {path.name}")


if __name__ == "__main__":
    main()
