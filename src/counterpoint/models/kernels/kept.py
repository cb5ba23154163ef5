"""What is kept between processes to begin sooner: compiled kernels of ours, and torch's compiled steps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from counterpoint.models.kernels import blocks, build, few_queries, few_rows

KERNELS = {"few_rows": few_rows, "few_queries": few_queries, "blocks": blocks}


@dataclass(frozen=True, slots=True)
class Kept:
    """One cache.

    Args:
        name: what it holds.
        folder: where it lies.
        num_files, num_bytes: what lies there.
        old: files that nothing will use again.
    """

    name: str
    folder: Path
    num_files: int
    num_bytes: int
    old: tuple[Path, ...] = ()


def kernels() -> dict[str, str]:
    """Each kernel, and whether it is used on this machine."""
    return {name: "used" if module.is_available() else _why_not() for name, module in KERNELS.items()}


def caches() -> list[Kept]:
    """The caches of this user, the largest last."""
    folder = build.cache_folder()
    own = sorted(folder.glob("kernels-*.so"))
    now = build.current().name if build.has_compiler() else ""
    found = [Kept("kernels", folder, len(own), _size(own), tuple(path for path in own if path.name != now))]
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    steps = Path(cache_dir())
    files = [path for path in steps.rglob("*") if path.is_file()] if steps.is_dir() else []
    if files:
        found.append(Kept("compiled steps of torch", steps, len(files), _size(files)))
    return sorted(found, key=lambda kept: kept.num_bytes)


def prune() -> int:
    """Remove kernels that other versions or machines left here, and torch's compiled steps, which are made anew where
    they are wanted. Returns the bytes that are free now."""
    freed = 0
    for kept in caches():
        if kept.name == "kernels":
            freed += _size(kept.old)
            for path in kept.old:
                path.unlink(missing_ok=True)
        else:
            freed += kept.num_bytes
            shutil.rmtree(kept.folder, ignore_errors=True)
    return freed


def _size(files: list[Path] | tuple[Path, ...]) -> int:
    return sum(path.stat().st_size for path in files if path.exists())


def _why_not() -> str:
    if torch.get_default_device().type != "cpu":
        return "not used: not on the CPU"
    return "not used: there is no C compiler" if not build.has_compiler() else "not used: it failed its check here"
