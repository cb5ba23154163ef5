"""What a model may be called, told without loading one. Imports nothing heavy."""

from __future__ import annotations

import json
import re
from pathlib import Path

from counterpoint.errors import ModelError
from counterpoint.models.gguf.find import INSTALLED, find

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")  # some old ids, such as gpt2, have no owner
DTYPES = ("float32", "bfloat16", "float16")
WEIGHTS = ("int8", "int4")


def check_name(name: str | Path) -> None:
    """Refuse what can't be a model.

    Raises:
        ModelError: it is no folder of a model, and can be none of the other names that `load` takes.
    """
    path, shown = Path(name), str(name)
    is_gguf = path.suffix.lower() == ".gguf"
    if path.is_dir() or shown == INSTALLED or (is_gguf and shown.count("/") < 2):
        if find(name) is None:
            check_folder(path, shown)
    elif path.exists() and not is_gguf:
        check_folder(path, shown)
    elif not path.exists() and not is_gguf and not HUB_ID.fullmatch(shown):
        raise ModelError(
            f"there is no model folder {shown!r}; give 'bundled', 'smollm2', a folder, a GGUF file, or a hub id such as "
            "owner/name",
            param="model",
        )


def check_folder(folder: Path, shown: str) -> None:
    """Refuse a folder that transformers did not write. Raises `ModelError`."""
    config = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(f"{shown!r} is a file; give the folder of the model", param="model")
    if not config.is_file():
        raise ModelError(f"the folder {shown!r} has no config.json, so it is no model of transformers", param="model")
    try:
        json.loads(config.read_bytes())
    except ValueError as error:
        raise ModelError(
            f"config.json of {shown!r} is not valid JSON: {str(error).splitlines()[0]}", param="model"
        ) from error


def check_dtype(name: str | None) -> None:
    """Refuse what is no number format. Raises `ModelError`."""
    if name is not None and name not in DTYPES:
        raise ModelError(f"dtype is {name!r}; use one of {', '.join(DTYPES)}", param="dtype")


def check_weights(name: str | None) -> None:
    """Refuse what is no way to keep weights. Raises `ModelError`."""
    if name is not None and name not in WEIGHTS:
        raise ModelError(
            f"weights is {name!r}; use 'int8', 'int4' for a GGUF file, or None for those of the model", param="weights"
        )
