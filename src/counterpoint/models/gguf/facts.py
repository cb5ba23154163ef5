"""What a GGUF file says about itself, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from counterpoint.models.gguf.file import GgufFile
from counterpoint.models.gguf.find import parts


def facts(path: Path, shown: str) -> dict[str, Any]:
    """Name and value of each fact, from the header alone.

    Raises:
        ModelError: see `GgufFile`.
    """
    file = GgufFile(path, shown)
    files = [path.with_name(part) for part in parts(path.name)]
    tokens = file.fields.get("tokenizer.ggml.tokens") or []
    kinds = [file.fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre")]
    found = {
        "file": " ".join(str(part) for part in files),
        "file_bytes": sum(part.stat().st_size for part in files),
        "file_name": file.fields.get("general.name"),
        "file_licence": file.fields.get("general.license"),
        "file_architecture": file.architecture,
        "file_weights": ", ".join(f"{count:,} {kind}" for kind, count in file.quantizations.items()),
        "file_tokenizer": f"{'/'.join(kind for kind in kinds if kind)}, {len(tokens):,} tokens" if tokens else None,
    }
    return {name: value for name, value in found.items() if value is not None}
