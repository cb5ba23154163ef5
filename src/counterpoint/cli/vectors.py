"""counterpoint vectors"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from counterpoint.cli.command import Command, CommandGroup, OptionGroup, Options
from counterpoint.cli.kinds import FILE, NUMBER, OUTPUT, Count
from counterpoint.cli.options import model_group, open_model, option, plain_warnings, read_vector
from counterpoint.errors import UsageError

if TYPE_CHECKING:
    from counterpoint.models.model import Model
    from counterpoint.vectors.scan import LayerScan

ENDINGS = (".safetensors", ".gguf")
METHODS = ("mean", "pca")
LENGTHS = ("difference", "states")


class _Layers(click.ParamType):
    """Layer numbers: 8-20, or 3,5,9."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        layers: list[int] = []
        for part in str(value).split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
                raise UsageError(f"--layers is {value!r}; write numbers or runs of them, as 8-20 or 3,5,9")
            layers += range(int(first), int(last or first) + 1)
        return layers


def _check(options: Options) -> None:
    if (options["system"] is None) != (options["negative_system"] is None):
        raise UsageError("--system and --negative-system go together; give both, or neither for pairs of plain texts")
    if options["method"] not in METHODS:
        raise UsageError(f"--method is {options['method']!r}; use {' or '.join(METHODS)}")
    if options["length"] not in LENGTHS:
        raise UsageError(f"--length is {options['length']!r}; use {' or '.join(LENGTHS)}")
    if options["method"] == "mean" and options["directions"] != 1:
        raise UsageError(f"--directions is {options['directions']} and --method is mean; use --method pca")


PAIRS = OptionGroup(
    "How the vector is made",
    (
        option("--system", default=None, metavar="TEXT", help="The system message that it leads to, 'none' or 'default'."),
        option("--negative-system", default=None, metavar="TEXT", help="The one that it leads away from."),
        option("--method", default="mean", metavar="[mean|pca]", help="Mean of the differences, or along the first principal ones."),
        option("--directions", type=Count(1), default=1, help="How many principal directions pca keeps."),
        option("--length", default="difference", metavar="[difference|states]", help="Of a direction: as far as the texts are apart, or as long as the layer's states, so that a strength is a share of these."),
        option("--layers", type=_Layers(), default=None, metavar="FIRST-LAST", help="As 8-20 or 3,5,9.  [default: fit, one past the middle; scan, all but the first]"),
    ),
    _check,
)  # fmt: skip
SMOLLM2 = model_group("smollm2")


def _pairs(model: Model, path: str, options: Options) -> list[tuple[Any, Any]]:
    from counterpoint.vectors.pairs import read_pair_lines

    with open(path, "rb") as file:
        return read_pair_lines(file, model=model, system=options["system"], negative=options["negative_system"])


def _fitting(options: Options) -> dict[str, Any]:
    names = {"method": "method", "num_directions": "directions", "layers": "layers", "length": "length"}
    return {name: options[option] for name, option in names.items()}


def _check_out(options: Options) -> None:
    if not options["out"].endswith(ENDINGS):
        raise UsageError(f"--out is {options['out']!r}; use a name that ends in {' or '.join(ENDINGS)}")


@click.command("fit", cls=Command, groups=(PAIRS, SMOLLM2), check=_check_out)
@click.argument("pairs", metavar="PAIRS", type=FILE)
@click.option("--out", type=OUTPUT, required=True, help="The file to write: .safetensors, or .gguf for llama.cpp too.")
def fit(pairs: str, out: str, **options: Any) -> None:
    """Make a vector from PAIRS, a JSON Lines file, and write it to a file.

    \b
    {"positive": TEXT, "negative": TEXT}      each line a pair of plain texts
    {"prompt": TEXT}                          with --system and --negative-system: a question under both
    """
    from counterpoint.vectors import Vector

    with plain_warnings():
        model = open_model(options)
        vector = Vector.fit(model, _pairs(model, pairs, options), **_fitting(options))
    vector.save(out)
    print(f"{vector} of {vector.about['pairs']} pairs, in {out}", file=sys.stderr)


@click.command("scan", cls=Command, groups=(PAIRS, SMOLLM2))
@click.argument("pairs", metavar="PAIRS", type=FILE)
@click.option("--strength", type=NUMBER, default=1.0, show_default=True, help="Times the direction, where it is added.")
@click.option("--html", type=OUTPUT, default=None, help="Write a page with a picture.")
@click.option("--svg", type=OUTPUT, default=None, help="Write the picture alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def scan(pairs: str, strength: float, html: str | None, svg: str | None, as_json: bool, **options: Any) -> None:
    """Try each layer's direction by itself, on pairs that it was not fitted on: which layers to put a vector into.

    PAIRS is a file as of `vectors fit`.
    """
    from counterpoint.vectors.scan import scan as scan_layers

    with plain_warnings():
        model = open_model(options)
        read = _pairs(model, pairs, options)
        found = scan_layers(model, read, strength=strength, on_layer=_shown, **_fitting(options))
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if html is not None or svg is not None:
        from counterpoint.report.layers import layers_page, layers_svg
        from counterpoint.report.page import save

        about = {"model": model.name, "pairs": str(len(read)), "method": options["method"], "strength": f"{strength:g}"}
        if html is not None:
            save(layers_page(found, about), html)
        if svg is not None:
            save(layers_svg(found), svg)
    if as_json:
        print(json.dumps({"model": model.name, "layers": [dataclasses.asdict(layer) for layer in found]}))
        return
    print("layer   size  share   told  recovered")
    for layer in found:
        print(f"{layer.layer:5} {layer.size:6.3f} {layer.share:6.3f} {layer.told:6.3f} {layer.recovered:10.3f}")


def _shown(layer: LayerScan) -> None:
    if sys.stderr.isatty():
        print(f"\rlayer {layer.layer}", end="", file=sys.stderr)


@click.command("show", cls=Command)
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--out", type=OUTPUT, default=None, help="Write it to this file too: .safetensors or .gguf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: str, out: str | None, as_json: bool) -> None:
    """What is in a vector's file; with --out the same vector in the other format."""
    vector = read_vector(file)
    if out is not None:
        vector.save(out)
    norms = {layer: float(direction.norm()) for layer, direction in vector.directions.items()}
    if as_json:
        facts = {"model_type": vector.model_type, "width": vector.width, "about": dict(vector.about), "norms": norms}
        print(json.dumps(facts))
        return
    print(vector)
    for name, value in vector.about.items():
        print(f"{name}: {value}")
    for layer, norm in norms.items():
        print(f"layer {layer}: length {norm:.4g}")


COMMANDS = {
    "fit": "a vector from pairs of texts",
    "scan": "what each layer's direction does by itself",
    "show": "what is in a vector's file, and the same in the other format",
}


@click.group("vectors", cls=CommandGroup, texts=COMMANDS, find={"fit": fit, "scan": scan, "show": show}.__getitem__)
def command() -> None:
    """Control vectors: directions that are added to what a model's layers write."""
