"""Checkpoints that a kill at any moment can't spoil: written under another name, then renamed."""

import io
import os
from pathlib import Path

import torch

from counterpoint.errors import UsageError


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all. Raises OSError (a full disk) with the old file untouched."""
    aside = path.with_name(path.name + ".part")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def save(path: Path, state: dict) -> None:
    """One checkpoint. Raises OSError where the disk is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())


def read(path: Path, *, fingerprint: str) -> dict | None:
    """The checkpoint at `path`, or None where there is none. Raises UsageError where it is of another run."""
    if not path.is_file():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise UsageError(f"{path} belongs to another model or corpus; choose another --out, or restore its config")
    return state
