"""Write docs/model-card.md, and its copy beside the weights, from the measurements in benchmarks/results/bundled."""

import json
import shutil
from pathlib import Path

from common import RESULTS, ROOT

WEIGHTS = ROOT / "src" / "counterpoint" / "models" / "bundled"
NAMES = ("bits", "conditions", "overlap", "leaks", "samples", "load")
DATA = """\
| file | what | licence |
|---|---|---|
| se | Standard Ebooks editions: 58 books of 51 authors, with genres | CC0 over texts in the public domain in the United States |
| eltec | 87 English novels, 1840 to 1920, of ELTeC (ed. L. Burnard) | public-domain texts, markup CC BY 4.0 |
| novels100 | 92 English novels, 1840s to 1930 | texts in the public domain in the United States |
| sentiment | movie reviews (Pang & Lee 2004), review sentences (Pang & Lee 2005), pros and cons of products (Liu) | CC BY 4.0 |
| qa | FairytaleQA, the training split: stories, questions, answers | Apache-2.0 over public-domain stories |
| define | Open English WordNet: words and definitions | CC BY 4.0 and the WordNet licence |
| tone | Personality Chat: replies in four tones | MIT |
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def share(cell: list) -> str:
    right, total, low, high = cell
    return f"{right / total:.2f} ({low:.2f} to {high:.2f})"


def data_table(training: dict) -> str:
    files, total = training["corpus"]["files"], sum(s["share"] for s in training["config"]["source"])
    rows = [
        [
            s["file"],
            f"{files[s['file']]['records']:,}",
            str(files[s["file"]]["broken"]),
            str(files[s["file"]]["held_out"]),
            str(files[s["file"]]["leaked"]),
            f"{files[s['file']]['bytes'] / 1e6:.1f}",
            f"{files[s['file']]['tokens'] / 1e6:.1f}",
            f"{100 * s['share'] / total:.0f}%",
        ]
        for s in training["config"]["source"]
    ]
    return table(
        [
            "file",
            "records",
            "broken, skipped",
            "held out",
            "dropped as a leak",
            "MB trained on",
            "million tokens",
            "share of the windows",
        ],
        rows,
    )


def bits_table(bits: dict) -> str:
    ways = ["model", "model with header", "5-gram Kneser-Ney", "xz -9"]
    rows = [[way, *(f"{bits['bits_per_byte'][kind][way]:.3f}" for kind in ("books", "reviews"))] for way in ways]
    return table(["bits per byte", "held-out books", "held-out reviews"], rows)


def condition_table(conditions: dict) -> str:
    rows = []
    for kind, got in conditions["kinds"].items():
        judge, scales = got["judge"], got["scales"].values()
        rows.append(
            [
                f"**{kind}**, all",
                f"{judge['chance']:.2f}",
                f"{judge['cross_validated']:.2f}",
                *(share(v["all"]) for v in scales),
            ]
        )
        for name in got["scales"]["1.0"]["by_condition"]:
            rows.append([name, "", "", *(share(v["by_condition"][name]) for v in scales)])
    return table(
        ["asked for", "chance", "the judge on held-out text", "scale 1 (unguided)", "scale 1.5", "scale 3"], rows
    )


def overlap_table(overlap: dict) -> str:
    rows = [
        [
            name,
            str(v["texts"]),
            f"{v['runs_in_training']} of {v['runs']:,}",
            f"{v['sentences_in_training']} of {v['sentences']:,}",
        ]
        for name, v in overlap.items()
        if name != "made_by"
    ]
    return table(
        ["texts", "count", "runs of 12 words in the training text", "sentences of 12 words or more in it"], rows
    )


def leak_table(leaks: dict) -> str:
    rows = [
        [name, f"{v['runs']:,}", str(v["in_training"]), f"{100 * v['in_training'] / max(1, v['runs']):.2f}%"]
        for name, v in leaks["held_out"].items()
    ]
    return table(["held out", "runs of 13 words", "in the training text", "share"], rows)


def sample_text(samples: dict) -> str:
    parts, last = [], None
    for s in samples["samples"]:
        if s["prompt"] != last:
            last = s["prompt"]
            negative = s["negative"].strip() if s["negative"] != "(nothing)" else "nothing (the empty context)"
            parts.append(f"**`{last.strip()}`**, pushed away from `{negative}`\n")
        text = " ".join(s["text"].split())
        parts.append(f"- scale {s['scale']:g}: {text}\n")
    return "\n".join(parts)


def made(*measurements: dict) -> str:
    by = [m["made_by"] for m in measurements]
    return (
        "Made by "
        + " and ".join(f"`{b['command']}`" for b in by)
        + f" on {by[0]['machine']}, torch {by[0]['torch']}.\n"
    )


def bits_section(got: dict) -> str:
    books, reviews = (got["bits_per_byte"][kind] for kind in ("books", "reviews"))
    return f"""{bits_table(got)}
The beginnings of the held-out books ({books["bytes"] / 1e6:.2f} MB in {books["texts"]} chapters and stories), and {reviews["texts"]} held-out reviews, review
sentences and remarks ({reviews["bytes"] / 1e6:.2f} MB). The 5-gram model saw all {got["training_tokens_of_the_5_gram"] / 1e6:.0f} million tokens of the training text; xz
packs the held-out text alone. The model reads without a header, and with all that is known of a text. {made(got)}"""


def condition_section(got: dict) -> str:
    return f"""A judge for each kind of text (TF-IDF of words and pairs, logistic regression, trained on pieces of held-out text only; its
own share of right answers in cross-validation, no text in two folds, is in the table) names the condition of {got["samples"]} samples
of at most {got["tokens"]} tokens each at temperature 1. Share named as asked for, with 95 percent intervals (Wilson). Guidance pushes
away from the other sentiment, and for genres from the empty context.

{condition_table(got)}
{made(got)}"""


def section(title: str, name: str, got: dict, render) -> str:
    """A measurement under its title, or how to make it where it has not been made."""
    body = (
        render(got[name])
        if name in got
        else (f"Not measured for these weights yet: `python benchmarks/bundled/{name}.py --data CORPUS --run RUN`.\n")
    )
    return f"## {title}\n\n{body}"


def main() -> None:
    got = {
        name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in NAMES
        if (RESULTS / f"{name}.json").is_file()
    }
    training = json.loads((RESULTS / "training.json").read_text(encoding="utf-8"))
    config = training["config"]
    model, plan, header = config["model"], config["schedule"], config["header"]
    size = sum((WEIGHTS / name).stat().st_size for name in ("model.safetensors", "tokenizer.json", "config.json"))
    notes = (Path(__file__).parent / "card_notes.md").read_text(encoding="utf-8")
    bits = training["bits_per_byte"]
    sections = [
        section("Held-out text", "bits", got, bits_section),
        section("Do conditions work?", "conditions", got, condition_section),
        section("Does it recite?", "overlap", got, lambda g: f"{overlap_table(g)}\n{made(g)}"),
        section("Did anything leak?", "leaks", got, lambda g: f"{leak_table(g)}\n{made(g)}"),
        section(
            "Loading",
            "load",
            got,
            lambda g: f"{g['load_s']:.2f} s, after {g['import_s']:.1f} s of imports (median of five). {made(g)}",
        ),
        notes,
        section(
            "Samples",
            "samples",
            got,
            lambda g: (
                f"Temperature 0.8, top-p 0.95, at most 60 tokens; chosen by the seed alone. {made(g)}\n{sample_text(g)}"
            ),
        ),
    ]
    text = f"""<!-- generated: python benchmarks/bundled/card.py -->
# Model card: the bundled model

A language model of {training["parameters"] / 1e6:.1f} million parameters that ships with Counterpoint ({size / 1e6:.1f} MB), so that guidance
can be tried, tested and shown without downloading anything. It is a teaching aid: what it writes has the manner of its
conditions and little sense. A Llama: {model["layers"]} layers, width {model["width"]}, {model["heads"]} heads, tied embeddings, byte-level BPE of
{config["tokenizer"]["vocab"]:,} entries, bfloat16. Trained on windows of {plan["window"]} tokens and, in the last {100 * plan["long"]:.0f}% of its steps, {plan["long_window"]}.

## Conditions it knows

A header line, a blank line, the text: `Genre: mystery. Author: Arthur Conan Doyle.`; `Sentiment: negative. Movie review.`;
`Topic: noun.animal. Define: cat.`. Two kinds go on in the same line: `Question: Who saw the fox? Answer:` (a passage
and a blank line may stand before it) and `Tone: witty. Message: Are you old? Reply:`. The header was dropped whole on
{100 * header["drop_all"]:.0f}% of the texts, and one field on {100 * header["drop_field"]:.0f}% of those that had several, so none, one and several are all known.

## Data

{DATA}
{data_table(training)}
In the last {100 * plan["late"]:.0f}% of the steps reviews and tones have a larger share (`late_share` in `configs/bundled.toml`). Whole books and
{100 * next(s["held_out_share"] for s in config["source"] if s["file"] == "sentiment"):.0f}% of the reviews were held out; training records that share more than 5% of their runs
of 13 words with held-out text were dropped (the column above). Attribution: NOTICE beside the weights.

Held out whole: {", ".join(f"`{name}`" for name in config["held_out"])}.

## Training

{training["tokens"] / 1e6:.1f} million tokens in {training["steps"]:,} steps, {training["seconds"] / 60:.0f} minutes on {training["device"].upper()}, {training["threads"]} thread{"s" * (training["threads"] > 1)}
({got["bits"]["made_by"]["machine"].split(",")[0]}, the other core busy with other work); no GPU. {6 * training["parameters"] * training["tokens"]:.1e} floating-point operations (6 for each parameter and token). torch {training["torch"]},
transformers {training["transformers"]}. `counterpoint train configs/bundled.toml --data CORPUS --out RUN --threads {training["threads"]}` makes it: one run, one
schedule, one seed.

At the end of training, on a small fixed sample of held-out text without headers, bits per byte: {", ".join(f"{n} {b:.3f}" for n, b in bits.items())}.

![loss](model-loss.png)

{chr(10).join(sections)}"""
    card = ROOT / "docs" / "model-card.md"
    card.parent.mkdir(exist_ok=True)
    card.write_text(text, encoding="utf-8")
    beside = text.replace("![loss](model-loss.png)", "The loss curve is in the documentation's copy of this card.")
    (WEIGHTS / "MODEL_CARD.md").write_text(beside, encoding="utf-8")
    if (RESULTS / "loss-curve.png").is_file():
        shutil.copy(RESULTS / "loss-curve.png", ROOT / "docs" / "model-loss.png")


if __name__ == "__main__":
    main()
