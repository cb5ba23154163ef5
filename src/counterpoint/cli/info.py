"""counterpoint info"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import Any

import click

from counterpoint.cli.command import Command
from counterpoint.cli.options import MODEL, open_model


@click.command("info", cls=Command, groups=(MODEL,))
@click.argument("name", required=False, metavar="[MODEL]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--prune", is_flag=True, help="Free what is kept of other versions, and torch's compiled steps; no model is read."
)
def command(name: str | None, as_json: bool, prune: bool, **options: Any) -> None:
    """Versions, and what the model is: size, context, what it was found to do; for a GGUF file also what is in it.

    MODEL says the same as --model.
    """
    if prune:
        from counterpoint.models.kernels import kept

        print(f"{kept.prune() / 1e6:.1f} MB are free now")
        return
    if name is not None:
        options["model"] = name
    model = open_model(options)
    facts = {
        "counterpoint": importlib.metadata.version("counterpoint"),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
        "model": model.name,
        "architecture": type(model.hf).__name__,
        "parameters": sum(p.numel() for p in model.hf.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "context_tokens": model.context_len,
        "vocabulary": model.vocab_size,
        "tokenizer": model.tokenizer is not None,
        "chat_template": bool(model.tokenizer is not None and model.tokenizer.chat_template),
        "pictures": "no: no processor was found with it"
        if model.processor is None
        else f"through its {type(model.processor).__name__}, tried with the first prompt that has some",
        **model.abilities.facts(model.context_len),
        "recorded_steps": f"no: {why_not}" if (why_not := model.not_recorded()) else "yes",
        **_kept(),
    }
    from counterpoint.models.gguf.find import find

    file = find(options["model"])
    if file is not None:
        from counterpoint.models.gguf.facts import facts as facts_of

        facts |= facts_of(file, model.name)
    if as_json:
        print(json.dumps(facts))
        return
    width = max(map(len, facts)) + 1
    for fact, value in facts.items():
        print(f"{fact:{width}} {value}")


def _kept() -> dict[str, Any]:
    """The kernels of this machine, and what is kept to begin sooner."""
    from counterpoint.models.kernels import kept

    facts: dict[str, Any] = {f"kernel_{name}": state for name, state in kept.kernels().items()}
    for cache in kept.caches():
        old = f", {len(cache.old)} of them of other versions or machines" if cache.old else ""
        size = f"{cache.num_files} files, {cache.num_bytes / 1e6:.1f} MB in {cache.folder}{old}"
        facts[f"kept_{cache.name.replace(' ', '_')}"] = size
    return facts
