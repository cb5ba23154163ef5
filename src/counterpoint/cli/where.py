"""counterpoint eval where"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import click

from counterpoint.cli.command import Command
from counterpoint.cli.options import needs, plain_warnings
from counterpoint.errors import ModelError, UsageError
from counterpoint.guide import Guide


@click.command("where", cls=Command)
@click.option("--model", required=True, metavar="FOLDER", help="A vision-language model: a folder, or a hub id.")
@click.option("--guide", "guides", multiple=True, metavar="GUIDE", help='As "scale=1.5,space=prob"; may be repeated.')
@click.option("--negative", default="noisy:500", show_default=True, help="noisy:STEPS, blank, without or none.")
@click.option("--pictures", "count", type=click.IntRange(1), default=180, show_default=True, help="How many are drawn.")
@click.option(
    "--image-size", type=click.IntRange(8), default=224, show_default=True, help="Pixels of a picture's side."
)
@click.option("--vary", default=None, metavar="image_size=A,B", help="The same at several sizes.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, guides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Can a model that reads pictures tell left from right, and does guidance help it?

    Shapes are drawn at nine places; the model chooses among left, middle and right, top, middle and bottom, and three
    shapes. The negative reads the same question with another picture.

    \b
    counterpoint eval where --model FOLDER --guide scale=2,plausibility=0.1
    """
    asked = [Guide.parse(text) for text in guides] or [
        Guide(scale=1.5, plausibility=0.1),
        Guide(scale=2.0, plausibility=0.1),
    ]
    sizes = _sizes(options["vary"], options["image_size"])
    with plain_warnings(), needs("vision"):
        from counterpoint.evaluate.where import check_negative, where

        check_negative(options["negative"])
        vlm, processor = _load(model)
        rows = []
        for size in sizes:

            def progress(done: int, size: int = size) -> None:
                if sys.stderr.isatty():
                    print(f"\r{done} of {options['count']} pictures of {size} pixels", end="", file=sys.stderr)

            outcomes = where(
                vlm, processor, [Guide(scale=1.0), *asked], num_pictures=options["count"], size=size,
                negative=options["negative"], seed=options["seed"], on_progress=progress,
            )  # fmt: skip
            rows += [_row(one, outcomes, size, options["seed"]) for one in outcomes]
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if as_json:
        print(json.dumps({"model": model, **options, "rows": rows}))
    else:
        _print(rows)


def _sizes(vary: str | None, size: int) -> list[int]:
    if vary is None:
        return [size]
    name, _, values = vary.partition("=")
    parts = [part.strip() for part in values.split(",")]
    if name.strip().replace("-", "_") != "image_size" or not all(part.isdigit() and int(part) >= 8 for part in parts):
        raise UsageError(f"--vary is {vary!r}; use image-size=24,48, in pixels of 8 or more")
    return [int(part) for part in parts]


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        return AutoModelForImageTextToText.from_pretrained(name).eval(), AutoProcessor.from_pretrained(name)
    except Exception as error:  # transformers raises many kinds for a model that can't be read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name!r} can't be loaded as a model that reads pictures: {reason}") from error


def _row(one: Any, outcomes: list[Any], size: int, seed: int) -> dict[str, Any]:
    plain = next(o for o in outcomes if o.question == one.question)
    gain = None if one is plain else dataclasses.asdict(one.gain(plain, seed=seed))
    return {
        "question": one.question,
        "image_size": size,
        "guide": one.guide.to_dict(),
        "accuracy": dataclasses.asdict(one.accuracy(seed=seed)),
        "gain": gain,
        "by_answer": one.by_place(),
        "confusion": {f"{right} > {answered}": n for (right, answered), n in sorted(one.confusion().items())},
    }


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        guide = ",".join(f"{k}={v}" for k, v in row["guide"].items())
        accuracy, gain = row["accuracy"], row["gain"]
        text = f"{row['question']:<7} {row['image_size']:>4} px  {guide:<32} {accuracy['value']:.3f}"
        text += f" [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
        if gain is not None:
            text += f"  {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] p = {gain['p']:.2g}"
        print(text)
        print("        " + ", ".join(f"{answer} {share:.2f}" for answer, share in row["by_answer"].items()))
        swapped = {pair: n for pair, n in row["confusion"].items() if pair in ("left > right", "right > left")}
        if row["question"] == "across":
            print(
                "        left taken for right "
                + str(swapped.get("left > right", 0))
                + ", right for left "
                + str(swapped.get("right > left", 0))
            )
