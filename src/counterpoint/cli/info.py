"""counterpoint info"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import Any

import click

from counterpoint.cli.options import model_options, open_model


@click.command("info")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool, **options: Any) -> None:
    """Versions, and what the model is: size, context, how its rows are run."""
    model = open_model(options)
    rows = model.new_rows()
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
        "rows": "ragged, one forward for all branches" if rows.can_crop and hasattr(rows, "num_bytes") else "separate",
    }
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:15} {value}")
