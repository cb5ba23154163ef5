"""Folders that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from counterpoint.errors import UsageError
from counterpoint.models.gguf.find import find
from counterpoint.models.loading import quietly
from counterpoint.models.model import Model
from counterpoint.train.checkpoint import replace_file

MARK = "made-of.txt"  # tells a folder of one run, or of one model, from another's
CHECKPOINT = "checkpoint.pt"


def claim(folder: Path, own: str) -> None:
    """Make the folder of a run, unless training has begun there under other settings.

    Args:
        own: tells the run's settings from others'.

    Raises:
        UsageError: it has, or files can't be made there.
    """
    mark = folder / MARK
    if (folder / CHECKPOINT).exists() and mark.is_file() and mark.read_text() != own:
        raise UsageError(
            f"out is {str(folder)!r}, where a run of another model, guide or setting has begun; choose another folder, or "
            "give what that one was given",
            param="out",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(mark, own.encode())
    except OSError as error:
        raise UsageError(
            f"out is {str(folder)!r}, which can't be written: {error.strerror or error}; give another folder",
            param="out",
        ) from None


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` once all is written."""
    aside, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for left in (aside, old):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    if folder.exists():
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def base_of(model: Model, folder: Path, *, save: bool | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The model below an adapter: {"path": where peft finds it, "is_gguf": whether it came from such a file,
    "fingerprint": of its weights}.

    Args:
        folder: of the run; its `base` is written where the model is in no folder of transformers, or where that is wanted,
            and anew where it holds another model.
        save: None decides by that.

    Raises:
        UsageError: it is in no folder, and none shall be written.
    """
    weights = model.fingerprint
    is_gguf = bool(model.name) and find(model.name) is not None
    source = "" if is_gguf else str(getattr(model.hf, "name_or_path", "") or "")
    if save is False and not source:
        raise UsageError(
            f"{model.name} is no folder of transformers, and an adapter must name its base; leave save_base out",
            param="save_base",
        )
    if save is False or (save is None and source):
        path = str(Path(source).absolute()) if Path(source).is_dir() else source
        return {"path": path, "is_gguf": is_gguf, "fingerprint": weights}
    base = folder / "base"
    if mark_of(base) != weights:
        say(f"writing the model itself to {base}")
        save_model(model, base, mark=weights)
    return {"path": str(base.absolute()), "is_gguf": is_gguf, "fingerprint": weights}


def mark_of(folder: Path) -> str | None:
    """The text that `save_model` wrote beside a model; None where there is none."""
    mark = folder / MARK
    return mark.read_text() if mark.is_file() else None


def save_model(
    model: Model, folder: Path, *, instead: Mapping[str, Tensor] | None = None, mark: str | None = None
) -> None:
    """Write a model and its tokenizer as a folder that transformers opens.

    Args:
        instead: weights that take the place of its own, by name.
        mark: a text that is written beside them.
    """
    state = {**model.hf.state_dict(), **(instead or {})}
    with whole_folder(folder) as aside, quietly():
        model.hf.save_pretrained(str(aside), state_dict=state)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(str(aside))
        if mark is not None:
            (aside / MARK).write_text(mark)
