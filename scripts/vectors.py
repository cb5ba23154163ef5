"""What control vectors are worth on SmolLM2: docs/vectors-measured.json, and the tables in docs/vectors.md.

    python scripts/vectors.py          # fits, writes texts, measures, writes the page; goes on after a kill

For each instruction that a program checks, vectors are fitted on questions under the instruction against its opposite. Which
layers a vector is put into, and how strong, is chosen for each instruction on other questions, and reported on yet others:
the question alone is the prompt. Texts are written by transformers with a hook that adds to each row what its vector adds,
so that texts of all instructions are one batch; the tests hold that tokens of `Model.with_vector` are those of such hooks.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    setting,
    with_interval,
    write_measured,
)

import counterpoint as cp
from counterpoint.contexts import chat, chat_prompt
from counterpoint.contexts.reading import read_prompt
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.diversity import repetition
from counterpoint.evaluate.intervals import interval
from counterpoint.report.layers import layers_svg
from counterpoint.store import Store, key_of
from counterpoint.vectors.fit import usual_layer
from counterpoint.vectors.pairs import chat_pairs
from counterpoint.vectors.scan import LayerScan, scan

MAX_TOKENS = 40
FITTED, CHOSEN = range(8), range(12, 15)  # questions that vectors are fitted on, and that layers are chosen on
SINGLES = (8, 11, 14, 17, 20, 23, 26)  # layers, each by itself
BAND = tuple(range(12, 27))  # many at once
#: strengths as shares of the mean length of a layer's states
SHARES, BAND_SHARES = (0.3, 0.6, 1.0), (0.05, 0.1, 0.15)
AROUND = (0.5, 1.0, 1.5)  # times what was chosen
SCANNED = 11  # the instruction whose scan is drawn
Place = tuple[tuple[int, ...], float]  # layers, and the share


class Steering:
    """Texts under vectors, kept in a store.

    Args:
        model: as it comes, without a vector.
        vectors: of each instruction, for all layers, each direction as long as its layer's states.
    """

    def __init__(self, model: cp.Model, store: Store, say: Say) -> None:
        self.model, self.store, self.say = model, store, say
        self.vectors = [
            cp.Vector.fit(model, self.pairs(i), layers=range(len(model.layers.modules)), length="states")
            for i in range(len(INSTRUCTIONS))
        ]
        say("vectors are fitted")

    def pairs(self, instruction: int) -> list[tuple[Any, Any]]:
        one = INSTRUCTIONS[instruction]
        asked = [QUESTIONS[q] for q in FITTED]
        return chat_pairs(self.model, asked, system=one.system, negative=one.opposite)

    def written(self, name: str, places: Sequence[Place], questions: range) -> list[Record]:
        """One text to each question under each instruction's vector, put where `places` has it."""
        asked = [(i, q) for i in range(len(INSTRUCTIONS)) for q in questions]
        weights = self.model.fingerprint
        keys = [
            key_of("steered", weights, self.vectors[i].digest, places[i], MAX_TOKENS, QUESTIONS[q]) for i, q in asked
        ]
        known = self.store.get(keys)
        left = [(key, pair) for key, pair in zip(keys, asked) if key not in known]
        if left:
            made = self._generated([pair for _, pair in left], places)
            self.store.put({key: judged(i, q, done) for (key, (i, q)), done in zip(left, made)})
        known = self.store.get(keys)
        records = [known[key] for key in keys]
        share = statistics.fmean(record["fulfilled"] for record in records)
        self.say(f"{name}: {share:.3f}")
        return records

    @torch.inference_mode()
    def _generated(self, asked: list[tuple[int, int]], places: Sequence[Place]) -> list[Said]:
        hf, tokenizer = self.model.hf, self.model.tokenizer
        prompts = [
            read_prompt(self.model, chat_prompt(self.model, [{"role": "user", "content": QUESTIONS[q]}]))
            for _, q in asked
        ]
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), tokenizer.eos_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = torch.tensor(prompt), 1
        hooks = []
        for layer, module in enumerate(self.model.layers.modules):
            added = torch.zeros(len(asked), 1, self.model.layers.width, dtype=hf.dtype)
            for row, (i, _) in enumerate(asked):
                layers, share = places[i]
                if layer in layers:
                    added[row, 0] = (self.vectors[i].directions[layer] * share).to(hf.dtype)
            if bool(added.any()):
                hooks.append(module.register_forward_hook(lambda _, args, output, added=added: output + added))
        try:
            made = hf.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )[:, longest:].tolist()  # fmt: skip
        finally:
            for hook in hooks:
                hook.remove()
        done = []
        for row in made:
            is_ended = tokenizer.eos_token_id in row
            row = row[: row.index(tokenizer.eos_token_id)] if is_ended else row
            done.append(Said(tokenizer.decode(row), tuple(row), "stop" if is_ended else "length"))
        return done


class Said:
    """What `judged` reads of a completion."""

    def __init__(self, text: str, token_ids: tuple[int, ...], finish_reason: str) -> None:
        self.text, self.token_ids, self.finish_reason = text, token_ids, finish_reason


def guided(model: cp.Model, store: Store, scale: float, questions: range, say: Say) -> list[Record]:
    """The same questions with the system message, against its opposite."""
    asked = [(i, q) for i in range(len(INSTRUCTIONS)) for q in questions]
    key = key_of("guided", model.fingerprint, scale, MAX_TOKENS, [messages(i, q) for i, q in asked])
    if key not in store.get([key]):
        requests = []
        for i, q in asked:
            built = chat(model, messages(i, q), negative=INSTRUCTIONS[i].opposite)
            options = {
                "guide": None if scale == 1 else cp.Guide(scale=scale),
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
            }
            requests.append(prepare(model, built.prompt if scale == 1 else built, **options))
        done = [one for (one,) in Engine(model).complete(requests)]
        store.put({key: [judged(i, q, one) for (i, q), one in zip(asked, done)]})
    records = store.get([key])[key]
    say(f"scale {scale:g}: {statistics.fmean(record['fulfilled'] for record in records):.3f}")
    return records


def best_places(steering: Steering) -> tuple[list[Place], dict[str, list[float]]]:
    """For each instruction where its vector does most on the questions to choose on; and the mean of each place.

    Of places that do as much, the one whose texts repeat themselves less.
    """
    tried = [((layer,), share) for layer in SINGLES for share in SHARES] + [(BAND, share) for share in BAND_SHARES]
    best: list[tuple[tuple[float, float], Place]] = []
    means: dict[str, list[float]] = {}
    for place in tried:
        records = steering.written(f"to choose: {named(place[0])}, {place[1]:g}", [place] * len(INSTRUCTIONS), CHOSEN)
        of_each = [records[at : at + len(CHOSEN)] for at in range(0, len(records), len(CHOSEN))]
        means.setdefault(named(place[0]), []).append(statistics.fmean(r["fulfilled"] for r in records))
        scores = [
            (statistics.fmean(r["fulfilled"] for r in own), -statistics.fmean(repetition(r["text"]) for r in own))
            for own in of_each
        ]
        best = [max(one, (score, place)) for one, score in zip(best, scores)] if best else [(s, place) for s in scores]
    return [place for _, place in best], means


def named(layers: Sequence[int]) -> str:
    """Layers in words."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"


def scanned(steering: Steering, instruction: int, layers: Sequence[int] | None) -> list[LayerScan]:
    """What a scan says, kept."""
    model, store = steering.model, steering.store
    strength, pairs = SHARES[1], steering.pairs(instruction)
    key = key_of("scan", model.fingerprint, INSTRUCTIONS[instruction].system, layers, strength, list(FITTED))
    if key not in store.get([key]):
        found = scan(model, pairs, layers=layers, length="states", strength=strength)
        store.put({key: [asdict(layer) for layer in found]})
    return [LayerScan(**layer) for layer in store.get([key])[key]]


def page(record: Record) -> str:
    """The measured part of docs/vectors.md."""
    chosen = record["chosen"]
    rows = {row["name"]: row for row in record["rows"]}
    usual = max((row for row in record["rows"] if row["kind"] == "usual"), key=lambda row: row["fulfilled"][0])
    own = rows["chosen for each instruction, times 1"]
    lines = [
        "## What it is worth",
        "",
        f"In short: put where it does most for its instruction, a vector alone does what is asked in {own['fulfilled'][0]:.2f} of the "
        f"texts, the system message alone in {rows['system message, log, scale 1']['fulfilled'][0]:.2f}, and the system message guided at "
        f"scale 3 in {rows['system message, log, scale 3']['fulfilled'][0]:.2f}; at the usual layer at most "
        f"{usual['fulfilled'][0]:.2f}. Which place is best differs from instruction to instruction. The price is repetition: "
        f"{own['repetition']:.2f} of the 3-grams, against {rows['system message, log, scale 3']['repetition']:.2f} under guidance; half "
        f"as strong, the vector does what is asked in {rows['chosen for each instruction, times 0.5']['fulfilled'][0]:.2f} and repeats "
        f"{rows['chosen for each instruction, times 0.5']['repetition']:.2f}.",
        "",
        f"SmolLM2-135M-Instruct (4 bits, read as bfloat16), {len(INSTRUCTIONS)} instructions that a program checks, "
        f"{record['questions']} questions each, greedy, at most {MAX_TOKENS} tokens. A vector is fitted on {len(FITTED)} other questions under "
        'the instruction against its opposite, with `length="states"`: a strength is a share of the mean length of the layer\'s '
        "states. Its prompt is the question alone, without a system message. Guided, the system message is read, against its "
        f"opposite. Layers and strengths are chosen on {len(CHOSEN)} yet other questions.",
        "",
        "| | does what is asked | 3-grams repeated | branches read |",
        "|---|---|---|---|",
    ]
    for row in record["rows"]:
        lines.append(
            f"| {row['name']} | {with_interval(row['fulfilled'])} | {row['repetition']:.2f} | {row['branches']} |"
        )
    lines += [
        "",
        "**Where.** Does what is asked on the questions to choose on, the same place for all instructions:",
        "",
        "| | " + " | ".join(("weakest", "middle", "strongest")) + " |",
        "|---|---|---|---|",
        *(
            f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |"
            for name, values in record["places"].items()
        ),
        "",
        f"Shares of {', '.join(f'{share:g}' for share in SHARES)} in one layer and of {', '.join(f'{share:g}' for share in BAND_SHARES)} "
        "in many. Chosen for each instruction, with its share:",
        "",
        "| | layers | share | does what is asked, of the questions reported |",
        "|---|---|---|---|",
        *(
            f"| {one.name} | {place['layers']} | {place['share']:g} | {place['fulfilled']:.2f} |"
            for one, place in zip(INSTRUCTIONS, chosen)
        ),
        "",
    ]
    drawn = record["scan"]
    best = max(drawn, key=lambda layer: layer["recovered"])
    lines += [
        f"**A scan** asks only what is predicted at an answer's first token. That of '{record['scanned']}' has its best layer at {best['layer']}, "
        f"which moves the prediction {best['recovered']:.2f} of the way at a share of {SHARES[1]:g}; its direction tells held-out texts apart in "
        f"{sum(s['told'] == 1 for s in drawn)} of {len(drawn)} layers: where something can be read is not where it can be written.",
        "",
        "![what each layer's direction does by itself](vectors-layers.svg)",
        "",
        made_by(record),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "vectors")
    parser.add_argument("--questions", type=int, default=5, help="that are reported")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    say = clock()
    given.folder.mkdir(parents=True, exist_ok=True)
    store, model = Store(given.folder / "texts.sqlite"), cp.load("smollm2", dtype="bfloat16", compile=False)
    reported = range(NUM_FIRST, NUM_FIRST + given.questions)
    steering = Steering(model, store, say)
    rows: list[Record] = []

    def add(kind: str, name: str, records: list[Record], branches: int = 1) -> None:
        found = interval([float(r["fulfilled"]) for r in records], seed=given.seed)
        rows.append({
            "kind": kind, "name": name, "fulfilled": [found.value, found.low, found.high], "n": len(records),
            "repetition": statistics.fmean(repetition(r["text"]) for r in records), "branches": branches,
        })  # fmt: skip

    usual, count = usual_layer(model), len(INSTRUCTIONS)
    add("none", "no vector", steering.written("no vector", [((), 0.0)] * count, reported))
    for share in SHARES:
        name = f"layer {usual}, the usual one, share {share:g}"
        add("usual", name, steering.written(name, [((usual,), share)] * count, reported))
    by_scan = [max(scanned(steering, i, SINGLES), key=lambda layer: layer.recovered).layer for i in range(count)]
    for share in SHARES:
        name = f"the layer by a scan, share {share:g}"
        add("scan", name, steering.written(name, [((layer,), share) for layer in by_scan], reported))
    for share in BAND_SHARES:
        name = f"{named(BAND)}, share {share:g}"
        add("band", name, steering.written(name, [(BAND, share)] * count, reported))
    places, means = best_places(steering)
    of_each: list[float] = []
    for times in AROUND:
        name = f"chosen for each instruction, times {times:g}"
        records = steering.written(name, [(layers, share * times) for layers, share in places], reported)
        add("chosen", name, records)
        if times == 1:
            parts = [records[at : at + len(reported)] for at in range(0, len(records), len(reported))]
            of_each = [statistics.fmean(r["fulfilled"] for r in part) for part in parts]
    for scale in (1.0, 3.0):
        records = guided(model, store, scale, reported, say)
        add("guide", f"system message, log, scale {scale:g}", records, 1 if scale == 1 else 2)
    drawn = scanned(steering, SCANNED, None)
    (ROOT / "docs" / "vectors-layers.svg").write_text(layers_svg(drawn))
    record: Record = setting("python scripts/vectors.py", given.seed) | {
        "questions": given.questions, "rows": rows, "places": means, "scan": [asdict(layer) for layer in drawn],
        "scanned": INSTRUCTIONS[SCANNED].name, "by scan": by_scan,
        "chosen": [
            {"layers": named(layers), "share": share, "fulfilled": value}
            for (layers, share), value in zip(places, of_each)
        ],
    }  # fmt: skip
    write_measured("vectors", record, page(record))
    say("wrote vectors.md")


if __name__ == "__main__":
    main()
